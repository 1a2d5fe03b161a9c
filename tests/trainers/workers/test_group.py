"""The feed between controller and workers: what a group that breaks may and may not get."""

import asyncio
from typing import Any

import pytest

from trainers.messages import Failed, Lost, Order, Progress, Started
from trainers.workers import group as launch
from trainers.workers.group import Feed

ORDER = Order(0, 1, "", (), (), "", {}, zero_shot=False, validation=(0,), test=(0,))
DIED = Lost("workers", "rank 1 died")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "SETTLE_S", 0.1)


async def soon(waiting: Any) -> Any:
    """The result, or None where there is none yet."""
    try:
        return await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    except TimeoutError:
        return None


def test_a_new_group_waits_for_the_controller() -> None:
    async def story() -> None:
        feed = Feed()
        first = asyncio.ensure_future(feed.next_order(0))
        assert await soon(first) is None
        await feed.put_order(ORDER)
        assert await first == (1, ORDER)
        await feed.report(DIED)
        again = asyncio.ensure_future(feed.next_order(0))  # the group that Ray starts in its place
        assert await soon(again) is None
        assert await feed.next_event(0.05) == DIED
        await feed.put_order(ORDER)
        assert await again == (2, ORDER)

    asyncio.run(story())


def test_one_failure_is_one_event() -> None:
    """A worker says that it has no memory, then dies of it."""

    async def story() -> None:
        feed = Feed()
        await feed.put_order(ORDER)
        for event in (Lost("out_of_memory", "no room"), DIED, DIED):
            await feed.report(event)
        assert await feed.next_event(0.05) == Lost("out_of_memory", "no room")
        assert await feed.next_event(0.05) == DIED  # the second death is another failure
        assert await feed.next_event(0.05) is None

    asyncio.run(story())


def test_an_order_forgets_what_was_reported_before_it() -> None:
    async def story() -> None:
        feed, failed = Feed(), Failed("for good", 1, workers="gone")
        for event in (DIED, Progress(0, "train", 1, 2), failed):
            await feed.report(event)
        await feed.put_order(ORDER)
        assert await feed.next_event(0.05) == failed and await feed.next_event(0.05) is None

    asyncio.run(story())


def test_a_group_that_breaks_at_the_end_gets_its_end() -> None:
    async def story() -> None:
        feed = Feed()
        await feed.put_order(ORDER)
        await feed.put_order(None)
        await feed.report(DIED)
        assert await feed.next_order(0) == (2, None)

    asyncio.run(story())


def test_a_worker_that_says_why_it_ends_does_not_end_its_successor() -> None:
    """The driver has decided on the reason given before Ray tells of the end: its order is for the next group."""

    async def story() -> None:
        for reason in (Lost("out_of_memory", "no room"), Failed("no store", 1)):
            feed = Feed()
            await feed.put_order(ORDER)
            await feed.report(reason, 1)
            assert await feed.next_event(0.05) == reason
            await feed.put_order(ORDER)
            await feed.report(DIED)
            assert await feed.next_event(0.05) is None and await soon(feed.next_order(1)) == (2, ORDER)
            await feed.report(Started(2, 0.0, {}))
            await feed.report(DIED)  # and the successor may break
            assert [type(await feed.next_event(0.05)) for _ in range(2)] == [Started, Lost]

    asyncio.run(story())


def test_what_is_said_of_an_earlier_order_is_not_of_this_one() -> None:
    async def story() -> None:
        feed = Feed()
        await feed.put_order(ORDER)
        await feed.put_order(ORDER)
        for event in (Progress(0, "train", 1, 2), Failed("diverged", 1, workers="stay")):
            await feed.report(event, 1)
        assert await feed.next_event(0.05) is None
        await feed.report(Progress(0, "train", 2, 2), 2)
        assert await feed.next_event(0.05) == Progress(0, "train", 2, 2)

    asyncio.run(story())


def test_an_error_that_all_ranks_meet_is_told_from_one_of_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MEET_S", 0.1)

    async def story() -> None:
        feed = Feed()
        await feed.put_order(ORDER)
        both = await asyncio.gather(feed.met(1, "diverged", 2), feed.met(1, "diverged", 2))
        assert both == [True, True]
        await feed.put_order(ORDER)
        assert not await feed.met(2, "diverged", 2)  # the other rank waits in the step
        assert not any(await asyncio.gather(feed.met(2, "no store", 2), feed.met(2, "no room", 2)))
        assert not await feed.met(1, "diverged", 1)

    asyncio.run(story())


def test_what_a_worker_says_of_the_end_counts_whichever_is_heard_first() -> None:
    """One rank's error is another's broken connection; what was lost before is not blamed on what comes long after."""
    why = Failed("the model raised", 1)

    async def story(lost_first: bool, pause_s: float) -> list[Any]:
        feed = Feed()
        await feed.put_order(ORDER)

        async def both() -> None:
            for event in (DIED, why) if lost_first else (why, DIED):
                await feed.report(event, 1 if event is why else None)
                await asyncio.sleep(pause_s)

        telling = asyncio.create_task(both())
        heard = [await feed.next_event(0.05) for _ in range(2)]
        await telling
        return heard

    assert asyncio.run(story(lost_first=False, pause_s=0.02)) == [why, None]
    assert asyncio.run(story(lost_first=True, pause_s=0.02)) == [why, None]
    assert asyncio.run(story(lost_first=True, pause_s=0.13)) == [DIED, why]


def test_what_else_happens_after_a_loss_is_kept() -> None:
    async def story() -> None:
        feed, progress = Feed(), Progress(0, "train", 1, 2)
        await feed.put_order(ORDER)
        for event in (DIED, progress, Started(2, 0.0, {})):
            await feed.report(event)
        assert await feed.next_event(0.05) == DIED
        assert [await feed.next_event(0.05) for _ in range(2)] == [progress, Started(2, 0.0, {})]

    asyncio.run(story())
