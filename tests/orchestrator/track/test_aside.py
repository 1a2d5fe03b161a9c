"""What others than drivers write stops no driver, and each operation has a role that may write it."""

import pytest

from orchestrator.track.aside import ASIDE, ASIDE_OPS, ASIDE_ROLES
from orchestrator.track.driving import counted, driving
from orchestrator.track.events import DRIVEN, ROLES
from orchestrator.track.requirements import NoOtherDriver
from tests.support.entries import START, entry

BODIES = {"approval": {"version": 1, "manifest_sha256": "m" * 64, "state": "approved"}}


def test_every_operation_has_a_role() -> None:
    assert {*ASIDE_ROLES} == ASIDE_OPS == {kind.op for kind in ASIDE} and not ASIDE_OPS & {kind.op for kind in DRIVEN}
    assert ROLES["approval"] == ROLES["promote"] == "promoter" and "quarantine" not in ROLES  # a publisher's


@pytest.mark.parametrize("op", sorted(ASIDE_OPS))
def test_a_driver_at_work_is_not_disturbed(op: str) -> None:
    log = [entry("start", START, 1), entry(op, BODIES.get(op, {}), 2)]
    now = driving(counted(log))
    assert now.driver and now.driver.seq == 1 and now.heard is log[0] and now.status == "running"
    NoOtherDriver("x").check(log[1:])
