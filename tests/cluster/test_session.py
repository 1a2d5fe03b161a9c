"""Placement groups of drivers that are dead; the rest of a session is tested end to end."""

import pytest

from cluster.session import NAMESPACE, held, orphaned


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
