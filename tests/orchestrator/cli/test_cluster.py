"""`orthoplex submit` before anything travels, and how it ends."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster import jobs
from cluster.errors import ConfigError, OrthoplexError
from cluster.jobs import Job
from orchestrator.cli.main import app
from tests.support.command_line import here

CONFIG = """
name: r
store: s3://bucket/x
adapter: {target_modules: a}
tasks: [{name: a, source: docstrings, task: kind}]
"""


class Server:
    """A job server that takes everything and says how the job ended."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def submit_job(self, **request: Any) -> str:
        assert Path(request["runtime_env"]["working_dir"]).stat().st_size > 0
        self.requests.append(request)
        return str(request["submission_id"])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(jobs, "job_client", lambda address: made)
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "ORTHOPLEX_STORE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/my.yaml").write_text(CONFIG)
    return made


def submit(*words: str) -> Any:
    return CliRunner().invoke(app, ["submit", *words, "--address", "http://x:1"])


def ended(status: str, code: int | None) -> Any:
    return lambda client, job, write: Job(job, status, "t/r", code, "why", None, None, "")


def test_what_is_submitted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "follow", ended("SUCCEEDED", 0))
    result = submit("sub/my.yaml", "--set", "train.epochs=1", "--name", "j", "--env", "A=b", "--grace", "9")
    assert result.exit_code == 0, result.output
    (request,) = server.requests
    assert request["entrypoint"] == "python -m orchestrator run sub/my.yaml --set train.epochs=1"
    assert request["runtime_env"]["env_vars"] == {"A": "b", "RAY_JOB_STOP_WAIT_TIME_S": "9"}
    assert request["submission_id"] == "j" and request["metadata"] == {"run": "default/r"}
    assert "orthoplex jobs stop j --address http://x:1" in result.output and "A" in result.output


@pytest.mark.parametrize("code", [1, 2, 3, 130])
def test_the_exit_code_is_the_runs(server: Server, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(jobs, "follow", ended("FAILED", code))
    result = submit("sub/my.yaml")
    assert isinstance(result.exception, OrthoplexError) and result.exception.exit_code == code


def test_no_follow_ends_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "follow", ended("FAILED", 1))
    assert submit("sub/my.yaml", "--no-follow").exit_code == 0


def refused(*words: str) -> str:
    result = submit(*words)
    assert isinstance(result.exception, ConfigError), result.output
    return str(result.exception)


def test_nothing_travels_where_something_is_wrong(server: Server, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert "not inside the working directory" in refused("sub/my.yaml", "--working-dir", "other")
    assert "would lie in the job's own copy" in refused("sub/my.yaml", "--set", "store=here")
    assert "train.epochs" in refused("sub/my.yaml", "--set", "train.epochs=0")
    assert "looks like a secret" in refused("sub/my.yaml", "--env", "HF_TOKEN=hunter2")
    assert "exact version" in refused("sub/my.yaml", "--pip", "transformers")
    (tmp_path / "cluster.py").touch()
    assert "cluster.py: has the name of a package of Orthoplex" in refused("sub/my.yaml")
    (tmp_path / "cluster.py").unlink()
    (tmp_path / ".rayignore").write_text("sub/\n")
    assert "left out of the upload" in refused("sub/my.yaml")
    assert server.requests == []


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("{here}/sub/mine", "would be uploaded, for all who reach the cluster"),
        ("sub/mine", "would be uploaded"),
        ("~/key.pem", "is not absolute"),
        ("key.pem", "is not absolute"),
    ],
)
def test_a_signing_key_does_not_travel(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, said: str
) -> None:
    """Its place on the cluster does; a job is not started to find nothing there, or to be handed the key."""
    (tmp_path / "sub/mine").write_text("the key")
    monkeypatch.setenv("ORTHOPLEX_SIGNING_KEY_FILE", place.format(here=tmp_path))
    result = submit("sub/my.yaml", "--no-follow")
    assert isinstance(result.exception, ConfigError) and said in str(result.exception) and not server.requests
    asked = "ORTHOPLEX_SIGNING_KEY_FILE=/var/run/secrets/orthoplex/key.pem"
    result = submit("sub/my.yaml", "--no-follow", "--env", asked)
    assert result.exit_code == 0 and "a file on the node of the driver" in result.output
    (request,) = server.requests
    assert request["runtime_env"]["env_vars"]["ORTHOPLEX_SIGNING_KEY_FILE"] == "/var/run/secrets/orthoplex/key.pem"


SWEEP = """
name: s
base: base.yaml
run: {store: "s3://bucket/x"}
budget: {trials: 2}
search: {space: {adapter.threshold: {uniform: [0.1, 0.9]}}}
"""


def test_a_sweep_is_submitted_as_one(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is `sweep`; the run's file that it names travels too, and `base=` is told from the upload."""
    monkeypatch.setattr(jobs, "follow", ended("FAILED", 3))
    (tmp_path / "sub/s.yaml").write_text(SWEEP)
    (tmp_path / "sub/base.yaml").write_text(CONFIG)
    result = submit("sub/s.yaml", "--set", "budget.trials=4", "--set", "run.train.epochs=1")
    assert isinstance(result.exception, OrthoplexError) and result.exception.exit_code == 3
    (request,) = server.requests
    assert request["entrypoint"] == (
        "python -m orchestrator sweep sub/s.yaml --set budget.trials=4 --set run.train.epochs=1"
    )
    assert request["metadata"] == {"run": "default/s"} and request["submission_id"].startswith("s-")
    assert submit("sub/s.yaml", "--working-dir", "sub", "--set", "base=sub/base.yaml", "--no-follow").exit_code == 0
    assert server.requests[1]["entrypoint"] == "python -m orchestrator sweep s.yaml --set base=base.yaml"
    said = refused("sub/s.yaml", "--set", "run.store=here", "--set", "run.data_dir=nowhere")
    assert "use --set run.store=s3://bucket/prefix" in said
    assert "search.space.adapter.thresold" in refused("sub/s.yaml", "--set", "search.space={adapter.thresold: {}}")
    (tmp_path / "outside.yaml").write_text(CONFIG)
    assert "not inside the working directory" in refused(
        "sub/s.yaml", "--working-dir", "sub", "--set", "base=outside.yaml"
    )


def test_a_quiet_submission_says_its_id(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = here(
        monkeypatch, capsys, "submit", "sub/my.yaml", "--address", "http://x:1", "--name", "j", "--no-follow", "-q"
    )
    assert (code, out, err) == (0, "j\n", "")
