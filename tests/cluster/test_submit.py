"""What travels with a job, and what must not."""

import os
import zipfile
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from cluster.secrets import is_secret
from cluster.submit import (
    Package,
    Submission,
    inside,
    job_environment,
    packaged,
    pinned,
    submission_id,
    withheld,
)


def test_variables_are_passed_by_name() -> None:
    here = {"AWS_PROFILE": "lab", "ORTHOPLEX_DATA_DIR": "/data", "HOME": "/root", "LEVEL": "3"}
    sent = job_environment(["LEVEL", "AWS_SHARED_CREDENTIALS_FILE=/var/run/secrets/aws"], here, grace_s=60)
    assert sent == {
        "AWS_PROFILE": "lab",
        "ORTHOPLEX_DATA_DIR": "/data",
        "LEVEL": "3",
        "AWS_SHARED_CREDENTIALS_FILE": "/var/run/secrets/aws",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
    }


@pytest.mark.parametrize(
    "asked",
    ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY=hunter2", "DB_PASSWORD=hunter2", "PROXY=http://a:hunter2@b"],
)
def test_secrets_are_refused_and_not_repeated(asked: str) -> None:
    with pytest.raises(ConfigError, match="looks like a secret") as refusal:
        job_environment([asked], {"AWS_SECRET_ACCESS_KEY": "hunter2", "HF_TOKEN": "hunter2"}, 60)
    assert "hunter2" not in str(refusal.value)


def test_secrets_among_known_names_stay_here() -> None:
    here = {"ORTHOPLEX_TOKEN": "hunter2", "AWS_ENDPOINT_URL": "https://user:hunter2@host"}
    assert job_environment([], here, 60).keys() == {"RAY_JOB_STOP_WAIT_TIME_S"}


@pytest.mark.parametrize("asked", ["UNSET", "1X=2", "RAY_ADDRESS=x", "TOKENIZERS_PARALLELISM=true"])
def test_variables_that_cannot_be_sent(asked: str) -> None:
    with pytest.raises(ConfigError, match="--env"):
        job_environment([asked], {}, 60)


def test_a_signing_key_is_passed_by_its_place() -> None:
    here = {"ORTHOPLEX_SIGNING_KEY_FILE": "/etc/orthoplex/key.pem", "ORTHOPLEX_SIGNING_KEY": "-----BEGIN"}
    sent = job_environment([], here, 60)
    assert sent == {"ORTHOPLEX_SIGNING_KEY_FILE": "/etc/orthoplex/key.pem", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
    asked = ["ORTHOPLEX_SIGNING_KEY_FILE=/var/run/secrets/orthoplex/key.pem"]
    assert job_environment(asked, here, 60)["ORTHOPLEX_SIGNING_KEY_FILE"] == "/var/run/secrets/orthoplex/key.pem"


def test_where_a_secret_lies_is_no_secret() -> None:
    assert not is_secret("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token")
    assert not is_secret("KEYBOARD", "us") and not is_secret("AWS_REGION", "eu-west-1")


def test_pins(tmp_path: Path) -> None:
    (tmp_path / "pins.txt").write_text("# two\nalpha==1.0  # one\n\nbeta[x]==2.1\n")
    assert pinned([str(tmp_path / "pins.txt"), "gamma==3"]) == ("alpha==1.0", "beta[x]==2.1", "gamma==3")
    for loose in ("alpha", "alpha>=1", "alpha==1.*", "ray==2.60.0", "-r other.txt"):
        with pytest.raises(ConfigError, match="--pip"):
            pinned([loose])


def test_pip_gives_workers_time_to_install() -> None:
    assert int(job_environment([], {}, 60, pip=True)["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"]) > 60


def test_request_reserves_nothing_on_the_head() -> None:
    package = Package(Path("/tmp/a.zip"), frozenset(), 1)
    made = Submission(
        "id-1", ("python", "-m", "orchestrator", "run", "a b.yaml"), {"A": "1"}, ("x==1",), {"run": "t/r"}
    )
    assert made.request(package) == {
        "entrypoint": "python -m orchestrator run 'a b.yaml'",
        "submission_id": "id-1",
        "entrypoint_num_cpus": 0,
        "runtime_env": {"working_dir": "/tmp/a.zip", "env_vars": {"A": "1"}, "pip": ["x==1"]},
        "metadata": {"run": "t/r"},
    }


def test_submission_ids() -> None:
    assert submission_id("run", "mine") == "mine"
    assert submission_id("run").startswith("run-") and submission_id("run") != submission_id("run")
    with pytest.raises(ConfigError, match="--name"):
        submission_id("run", "a/b")


def test_package_leaves_out_what_is_ignored(tmp_path: Path) -> None:
    for name in (
        "a.yaml",
        "sub/b.py",
        ".env",
        "sub/server.pem",
        ".git/config",
        "data/big",
        "logs/x",
        ".venv/y",
        "z.log",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("content")
    (tmp_path / ".rayignore").write_text("/data/\n")
    (tmp_path / ".gitignore").write_text("logs/\n*.log\n")
    with packaged(tmp_path) as package:
        assert package.files == {"a.yaml", "sub/b.py", ".rayignore", ".gitignore"}
        with zipfile.ZipFile(package.path) as archive:
            assert set(archive.namelist()) == package.files
    assert not package.path.exists()


def test_package_too_large_names_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.runtime_env import packaging

    monkeypatch.setattr(packaging, "GCS_STORAGE_MAX_SIZE", 1000)
    (tmp_path / "weights.bin").write_bytes(os.urandom(5000))
    (tmp_path / "a.yaml").write_text("a")
    with pytest.raises(ConfigError, match=r"weights\.bin.*\.rayignore"), packaged(tmp_path):
        pass


def test_the_projects_upload_has_what_a_run_needs() -> None:
    root = Path(__file__).parents[2]
    with packaged(root) as package:
        assert {
            "orchestrator/__main__.py",
            "orchestrator/templates/config.yaml",
            "configs/quickstart.yaml",
        } <= package.files
        assert not [name for name in package.files if name.startswith(("tests/", "docs/", ".git/", ".venv/"))]
        shipped = sum(path.stat().st_size for path in (root / "trainers/models/docs_lm").iterdir())
        assert package.size_bytes - shipped < 5 << 20 and shipped < 12 << 20, "the model that ships, and little else"


def test_inside(tmp_path: Path) -> None:
    (tmp_path / "out.yaml").write_text("")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link.yaml").symlink_to(tmp_path / "out.yaml")
    assert inside(tmp_path / "in", tmp_path / "in/sub/../a.yaml") == "a.yaml"
    assert inside(tmp_path / "in", tmp_path / "out.yaml") is None
    assert inside(tmp_path / "in", tmp_path / "in/link.yaml") is None


def test_secrets_are_left_out_and_allowed_by_name(tmp_path: Path) -> None:
    for name in ("a.yaml", "sub/credentials.json", ".ssh/id_rsa", "notes.txt", "keys.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("AKIAIOSFODNN7EXAMPLE" if name == "notes.txt" else "content")
    os.mkfifo(tmp_path / "pipe")
    with packaged(tmp_path) as package:
        assert package.files == {"a.yaml", "keys.py"}
        assert package.left_out == (".ssh/id_rsa", "notes.txt", "sub/credentials.json")
    with packaged(tmp_path, allowed=["credentials.json", "notes.txt"]) as package:
        assert package.files == {"a.yaml", "keys.py", "notes.txt", "sub/credentials.json"}


def test_variables_are_allowed_by_name() -> None:
    here = {"ORTHOPLEX_TOKEN": "x", "ORTHOPLEX_STATE": "/s", "ORTHOPLEX_DATA_DIR": "/d", "SHA": "a1b2c3d4" * 5}
    assert withheld(here) == ["ORTHOPLEX_TOKEN"] and withheld(here, ["ORTHOPLEX_TOKEN"]) == []
    with pytest.raises(ConfigError, match=r"--env SHA: looks like a secret.* add --allow SHA"):
        job_environment(["SHA"], here, 60)
    sent = job_environment(["SHA"], here, 60, allowed=["SHA", "ORTHOPLEX_TOKEN"])
    assert {"SHA", "ORTHOPLEX_TOKEN", "ORTHOPLEX_DATA_DIR"} < sent.keys()
