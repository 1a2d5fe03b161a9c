"""Placement groups of drivers that are dead, and what a Ray of one's own starts with; the rest is tested end to end."""

import os
import signal
import stat
from pathlib import Path

import pytest

from cluster import session
from cluster.resources import ClusterConfig
from cluster.session import NAMESPACE, held, inherited, orphaned, ray_session, write_secret


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"creator_job_dead": False}, False),
        ({"creator_job_dead": False, "creator_job_id": b"dead"}, True),
        ({"creator_job_dead": False, "creator_job_id": b"alive"}, False),
        ({"creator_job_dead": False, "creator_actor_id": b"a", "creator_actor_dead": True}, True),
        ({"creator_job_dead": False, "creator_actor_id": b"a", "creator_actor_dead": False}, False),
        (
            {"creator_job_dead": False, "creator_actor_id": b"\xff" * 16, "creator_actor_dead": True},
            False,
        ),  # the driver
        ({"is_detached": True}, False),
        ({"ray_namespace": "someone-else"}, False),
        ({"state": 3}, False),  # REMOVED
    ],
)
def test_orphaned(changed: dict[str, object], expected: bool) -> None:
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    assert PlacementGroupTableData.REMOVED == 3
    group = PlacementGroupTableData(**{"ray_namespace": NAMESPACE, "creator_job_dead": True, "state": 0, **changed})
    assert orphaned(group, {b"dead"}) is expected


def test_held_is_what_this_job_s_groups_have_their_place_for() -> None:
    from ray.core.generated.common_pb2 import Bundle
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData as Group

    def group(job: bytes, state: int) -> Group:
        bundles = [Bundle(unit_resources={"CPU": 2, "GPU": 0.5}) for _ in range(2)]
        return Group(creator_job_id=job, state=state, bundles=bundles)

    ours, others = b"ours", b"others"
    groups = [group(ours, Group.CREATED), group(ours, Group.PENDING), group(others, Group.CREATED)]
    assert held(groups, ours) == {"CPU": 4, "GPU": 1}
    assert held([group(ours, Group.REMOVED)], ours) == {}


def test_a_ray_of_one_s_own_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what `ray.init` finds: an address of loopback, a token in a folder that nobody else enters, our handlers. The
    token of another cluster is not used; afterwards all is as it was."""
    import ray

    found: list[str] = []

    def init(*, _temp_dir: str, **_: object) -> None:
        token, folder = Path(os.environ["RAY_AUTH_TOKEN_PATH"]), Path(_temp_dir).parent
        assert os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN" not in os.environ
        assert token.parent == folder and len(token.read_text()) == 64
        assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, token)] == [0o700, 0o600]
        assert ray.util.get_node_ip_address() == "127.0.0.1"
        assert [os.environ[f"{kind}_SOCKET_IFNAME"] for kind in ("GLOO", "NCCL")] == ["lo", "eth7"]
        ray._private.utils.set_sigterm_handler(lambda *_: None)  # as `ray.init` does
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        found.append(token.read_text())
        raise InterruptedError(_temp_dir)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # a Ray of this process's other tests is left alone
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray._private.worker, "_global_node", None)
    monkeypatch.setattr(session, "_look_for_token", lambda: None)
    for name, value in {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "another", "NCCL_SOCKET_IFNAME": "eth7"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before, handler = dict(os.environ), signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for _ in range(2):
            with pytest.raises(InterruptedError) as error, ray_session(ClusterConfig()):
                raise AssertionError
            assert not Path(str(error.value)).parent.exists()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert {**os.environ, "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "", **session.QUIET} == {
        **before, "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "", **session.QUIET,
    }  # fmt: skip
    assert found[0] != found[1] and ray.util.get_node_ip_address() != "127.0.0.1"


def test_a_secret_is_never_written_over(tmp_path: Path) -> None:
    write_secret(tmp_path / "token")
    with pytest.raises(FileExistsError):
        write_secret(tmp_path / "token")


def test_variables_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "1")
    monkeypatch.delenv("TWO", raising=False)
    with pytest.raises(KeyError), inherited({"ONE": None, "TWO": "2"}):
        assert "ONE" not in os.environ and os.environ["TWO"] == "2"
        raise KeyError
    assert os.environ["ONE"] == "1" and "TWO" not in os.environ
