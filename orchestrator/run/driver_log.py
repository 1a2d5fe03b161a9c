"""The log of a run or a sweep in its driver's hands: read once, written under a lease, never by two drivers."""

import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Generic, Protocol, TypeVar

from cluster.errors import (
    ConflictError,
    GuardStop,
    IntegrityError,
    Interrupted,
    OrthoplexError,
    StoreError,
    TrainingError,
)
from cluster.storage.local import StoreGoneError
from orchestrator.log.chain import Log
from orchestrator.log.decision import Decision
from orchestrator.log.entry import Entry
from orchestrator.log.event import Event, Json, Requirement
from orchestrator.run.driver_process import standing, this_process
from orchestrator.track.driving import Driver, Driving
from orchestrator.track.events import (
    ENDINGS,
    KNOWN,
    Ending,
    Fail,
    Interrupt,
    Position,
    Renew,
    Start,
    Stop,
    refuse_unknown,
)
from orchestrator.track.requirements import LeaseHeld, taken_over
from orchestrator.track.state import Replay, RunState
from orchestrator.track.track import Track

RENEWALS = 3  # a lease is renewed this many times in the time it lasts
LEAST_WAIT_S = 0.1  # between two renewals
WATCH_S = 2.0


class Driven(Protocol):
    """The part of a replayed log that concerns its driver; see RunState."""

    @property
    def driving(self) -> Driving:
        """Who drives, and how the last driver left."""

    @property
    def head(self) -> Entry | None:
        """The newest entry of all."""


State = TypeVar("State", bound=Driven)


class DriverLog(Generic[State]):
    """Reads `log` when made. `state` is the log replayed by `replayed`, with every entry that this object has appended.

    A driver ends it with one of ENDINGS. Messages call the log's subject `noun`. `known` are the operations that may
    stand in the log.
    """

    def __init__(
        self, log: Log, replayed: Callable[[Sequence[Entry]], State], noun: str, known: Container[str] = KNOWN
    ) -> None:
        self.log, self.replayed, self.noun, self.known = log, replayed, noun, known
        self.entries = log.entries()
        self.lease: int | None = None
        self.lost: OrthoplexError | None = None
        self.lock = threading.RLock()
        self.spoke = time.monotonic()
        self.progress: Position | None = None  # of the current task, for readers of the log
        self.pending: list[Decision] = []  # decisions that no entry carries yet
        self.state: State = self._replayed()

    def take(
        self, versions: dict[str, str], lease_s: float, say: Callable[[str], None], cluster: Json | None = None
    ) -> None:
        """Makes this process the driver, with a `start` entry that names the `versions` of what runs, and the cluster.

        Raises:
            ConflictError: another driver is alive. One that is silent for its lease is taken over from.
            StoreError: a newer Orthoplex wrote to the log.
        """
        start = Start(versions=versions, driver=this_process(), lease_s=lease_s)
        if cluster is not None:
            start = start.model_copy(update={"cluster": cluster})
        with self.lock:
            while self.lease is None:
                self._wait_for_driver(say)
                refuse_unknown(self.log.label, self.entries, self.known)
                with suppress(ConflictError):  # another driver was quicker: look again
                    self.lease = self._appended(start).seq

    def decide(self, *decisions: Decision) -> None:
        """Has the next entry carry these decisions, whatever it is."""
        with self.lock:
            self.pending += decisions

    def append(self, event: Event) -> None:
        """Appends an event under the lease. Entries that non-drivers wrote meanwhile are taken in first.

        Raises:
            ConflictError: another driver has taken over; nothing was written.
        """
        with self.lock:
            self.check()
            self._held(event)

    def _held(self, event: Event) -> None:
        """Appends an event under the lease, which this object holds."""
        self._appended(event.under(self.lease).with_decisions(self.pending))
        self.pending = []
        if isinstance(event, ENDINGS):
            self.lease = None

    def _appended(self, event: Event) -> Entry:
        """The entry, appended while the log is held as `state` says. Raises ConflictError if it is not any more."""
        held = _Heard(
            LeaseHeld(
                label=self.log.label, noun=self.noun, driver=self.state.driving.driver, entries=tuple(self.entries)
            )
        )
        try:
            entry = self.log.append(event, after=self.state.head, requires=held)
        except ConflictError:
            self._take_in(held.since)
            raise
        self._take_in([*held.since, entry])
        return entry

    def check(self) -> None:
        """Raises ConflictError if another driver has taken over, or the error that ended the renewals, if any did."""
        if self.lost is None and not self._mine:
            self.lost = taken_over(self.log.label, self.noun, self.state.driving.driver)
        if self.lost:
            raise self.lost

    @property
    def _mine(self) -> bool:
        """Whether this object drives, as far as it has read the log."""
        driver = self.state.driving.driver
        return driver is not None and driver.seq == self.lease

    @contextmanager
    def kept(self, lease_s: float) -> Iterator[None]:
        """Renews the lease for as long as the block runs. If it is lost or cannot be renewed any more, `check` raises
        the error."""
        done = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(done, lease_s / RENEWALS), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()

    @contextmanager
    def left(self) -> Iterator[None]:
        """Logs why the driver leaves the block if that is by an exception, which goes on its way.

        If even that fails, or another has taken over, the log simply lacks it.
        """
        try:
            yield
        except OrthoplexError as error:
            self._leave(error)
            raise
        except KeyboardInterrupt:
            self._leave(Interrupted("interrupted"))
            raise
        except Exception as error:
            self._leave(TrainingError(f"{type(error).__name__}: {error}"))
            raise

    def _leave(self, error: OrthoplexError) -> None:
        kinds: dict[type[OrthoplexError], type[Ending]] = {GuardStop: Stop, Interrupted: Interrupt}
        ending = kinds.get(type(error), Fail)(reason=str(error))
        if error.evidence:
            ending = ending.model_copy(update={"evidence": error.evidence})
        with suppress(Exception), self.lock:  # `error` is what matters
            if self._mine:  # also if the renewals have ended, of which the log should tell
                self._vouch()
                self._held(ending)

    def _vouch(self) -> None:
        """Has the log name the checkpoint that was stored last, unless it does already."""
        if self.progress and self.progress.checkpoint not in (None, self.state.driving.checkpoint):
            self._held(Renew(progress=self.progress))

    def _renew(self, done: threading.Event, every_s: float) -> None:
        """Renews until `done`. An error that ends it before is kept for `check`, which raises it in the main thread."""
        try:
            while not done.wait(max(LEAST_WAIT_S, self.spoke + every_s - time.monotonic())):
                self._renewed()
        except OrthoplexError as error:
            self.lost = self.lost or error
        except Exception as error:
            self.lost = OrthoplexError(
                f"{self.log.label}: the lease could not be renewed ({type(error).__name__}: {error}), so that another "
                f"driver might take the {self.noun} over; run again to go on"
            )

    def _renewed(self) -> None:
        """Renews once. If the store cannot be reached, or others were quicker each time, it is tried again later. If
        another driver takes over meanwhile, the next entry will tell."""
        try:
            self.append(Renew(progress=self.progress) if self.progress else Renew())
        except (IntegrityError, StoreGoneError):
            raise
        except StoreError:
            if self.lost or not self._mine:
                raise
            self.spoke = time.monotonic()

    def _wait_for_driver(self, say: Callable[[str], None]) -> None:
        """Returns when no driver is in the way. A driver that this machine cannot see is watched for its lease."""
        driver = self.state.driving.driver
        verdict = standing(driver.start.driver, this_process()) if driver else "gone"
        if driver is None or verdict == "gone":
            return None
        if verdict == "alive":
            raise self._driven(driver)
        heard, lease_s = self.state.driving.heard, driver.start.lease_s
        say(f"{self.log.label}: {driver.shown} may be at work on it; taking over in {lease_s:.0f} s if not")
        deadline = time.monotonic() + lease_s
        while time.monotonic() < deadline:
            time.sleep(min(WATCH_S, lease_s / RENEWALS))
            self._refresh()
            if self.state.driving.driver != driver:
                return self._wait_for_driver(say)
            if self.state.driving.heard != heard:
                raise self._driven(driver)
        return None

    def _driven(self, driver: Driver) -> ConflictError:
        return ConflictError(
            f"{self.log.label}: {driver.shown} is at work on this {self.noun}; let it finish, stop it, or give "
            "the configuration another `name`"
        )

    def _refresh(self) -> None:
        self._take_in(self.log.since(self.state.head))

    def _take_in(self, entries: list[Entry]) -> None:
        self.entries += entries
        self.state, self.spoke = self._replayed(), time.monotonic()

    def _replayed(self) -> State:
        return self.replayed(self.entries)


class _Heard:
    """A requirement that also keeps the entries which others wrote since, to be taken in."""

    def __init__(self, requirement: Requirement) -> None:
        self.requirement = requirement
        self.since = list[Entry]()

    def check(self, since: Sequence[Entry]) -> None:
        """See Requirement."""
        self.since = [*since]
        self.requirement.check(since)


class RunLog(DriverLog[RunState]):
    """The log of a run."""

    def __init__(self, track: Track) -> None:
        """Reads the track's log."""
        self.track = track
        super().__init__(track, Replay(track.team, track.name), "run")
