"""A log as its driver holds it, be it a run's or a sweep's: read once, written to under a lease, never by two."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, Generic, Protocol, TypeVar

from cluster.errors import ConflictError, GuardStop, Interrupted, OrthoplexError, StoreError, TrainingError
from orchestrator.log.chain import Log
from orchestrator.log.decision import Decision
from orchestrator.log.entry import Entry
from orchestrator.run.lease import standing, this_process
from orchestrator.track.state import ENDINGS, RunState, replay
from orchestrator.track.track import Track

RENEWALS = 3  # a lease is renewed this many times in the time it lasts
WATCH_S = 2.0


class Driven(Protocol):
    """What a replayed log says of its driver; see RunState."""

    @property
    def driver(self) -> Mapping[str, Any] | None:
        """The `start` entry of the driver that holds it, None where it has left."""

    @property
    def heard(self) -> Entry | None:
        """The newest entry of any driver."""

    @property
    def head(self) -> Entry | None:
        """The newest entry of all."""


State = TypeVar("State", bound=Driven)


class DriverLog(Generic[State]):
    """Reads `log` when made. `state` is what `replayed` makes of it, with all that this object has appended since.

    A driver ends it with an entry of ENDINGS; `noun` is what messages call it.
    """

    def __init__(self, log: Log, replayed: Callable[[Sequence[Entry]], State], noun: str) -> None:
        self.log, self.replayed, self.noun = log, replayed, noun
        self.entries = log.entries()
        self.lease: int | None = None
        self.lost: ConflictError | None = None
        self.lock = threading.RLock()
        self.spoke = time.monotonic()
        self.progress: Mapping[str, Any] | None = None  # of what it does now, for those who read the log
        self.pending: list[Decision] = []  # decisions that no entry carries yet
        self.state: State = self._replayed()

    def take(self, body: Mapping[str, Any], lease_s: float, say: Callable[[str], None]) -> None:
        """Makes this process the driver, with a `start` entry of `body`.

        Raises:
            ConflictError: another driver is alive. One that is silent for its lease is taken over from.
        """
        with self.lock:
            start = {**body, "driver": asdict(this_process()), "lease_s": lease_s}
            while self.lease is None:
                self._wait_for_driver(say)
                with suppress(ConflictError):  # somebody was quicker: look again
                    self.lease = self._appended("start", start).seq

    def decide(self, *decisions: Decision) -> None:
        """Has the next entry carry these decisions, whatever it is."""
        with self.lock:
            self.pending += decisions

    def append(self, op: str, body: Mapping[str, Any]) -> None:
        """Appends an entry under the lease; what others than drivers wrote meanwhile is taken in first.

        Raises:
            ConflictError: another driver has taken over; nothing was written.
        """
        with self.lock:
            self.check()
            made = [*body.get("decisions", ()), *(each.model_dump() for each in self.pending)]
            self._appended(op, {**body, "lease": self.lease, **({"decisions": made} if made else {})})
            self.pending = []
            if op in ENDINGS:
                self.lease = None

    def _appended(self, op: str, body: dict[str, Any]) -> Entry:
        """The entry, appended while the log is held as `state` says. Raises ConflictError where it is not any more."""
        driver, others = self.state.driver, list[Entry]()

        def unchanged(since: Sequence[Entry]) -> None:
            others[:] = since
            now = self._replayed(since).driver if since else driver
            if now != driver:
                raise self._taken_over(now)

        try:
            entry = self.log.append(op, body, after=self.state.head, valid=unchanged)
        except ConflictError:
            self._take_in(others)
            raise
        self._take_in([*others, entry])
        return entry

    def check(self) -> None:
        """Raises ConflictError where another driver has taken over."""
        driver = self.state.driver
        if self.lost is None and (driver is None or driver["seq"] != self.lease):
            self.lost = self._taken_over(driver)
        if self.lost:
            raise self.lost

    @contextmanager
    def kept(self, lease_s: float) -> Iterator[None]:
        """Renews the lease for as long as the block runs. Where it is lost, `check` says so."""
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
        """Logs why the driver leaves the block where that is by an exception, which goes on its way.

        Where even that fails, or another has taken over, the log simply lacks it.
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
        op = {GuardStop: "stop", Interrupted: "interrupt"}.get(type(error), "fail")
        evidence = getattr(error, "evidence", {})
        with suppress(StoreError):
            self.append(op, {"reason": str(error), **({"evidence": evidence} if evidence else {})})

    def _renew(self, done: threading.Event, every_s: float) -> None:
        while not done.wait(max(0.1, self.spoke + every_s - time.monotonic())):
            try:
                self.append("renew", {"progress": self.progress} if self.progress else {})
            except ConflictError:
                return  # and `check` raises it where it can be acted on
            except StoreError:
                self.spoke = time.monotonic()  # cannot be reached: try again later, a commit will tell

    def _wait_for_driver(self, say: Callable[[str], None]) -> None:
        """Returns where no driver is in the way; watches one that this machine cannot see for as long as its lease."""
        driver = self.state.driver
        verdict = standing(driver["driver"], this_process()) if driver else "gone"
        if driver is None or verdict == "gone":
            return None
        if verdict == "alive":
            raise self._driven(driver)
        heard, deadline = self.state.heard, time.monotonic() + driver["lease_s"]
        who = f"{self.log.label}: {self._shown(driver)}"
        say(f"{who} may be at work on it; taking over in {driver['lease_s']:.0f} s if not")
        while time.monotonic() < deadline:
            time.sleep(min(WATCH_S, driver["lease_s"] / RENEWALS))
            self._refresh()
            if self.state.driver != driver:
                return self._wait_for_driver(say)
            if self.state.heard != heard:
                raise self._driven(driver)
        return None

    def _driven(self, driver: Mapping[str, Any]) -> ConflictError:
        return ConflictError(
            f"{self.log.label}: {self._shown(driver)} is at work on this {self.noun}; let it finish, stop it, or give "
            "the configuration another `name`"
        )

    def _taken_over(self, driver: Mapping[str, Any] | None) -> ConflictError:
        return ConflictError(
            f"{self.log.label}: {self._shown(driver)} has taken the {self.noun} over; leave it to that one"
        )

    @staticmethod
    def _shown(driver: Mapping[str, Any] | None) -> str:
        if driver is None:
            return "another driver"
        return f"{driver['actor']} (pid {driver['driver']['pid']}, since {driver['time']})"

    def _refresh(self) -> None:
        self._take_in(self.log.since(self.state.head))

    def _take_in(self, entries: list[Entry]) -> None:
        self.entries += entries
        self.state, self.spoke = self._replayed(), time.monotonic()

    def _replayed(self, since: Sequence[Entry] = ()) -> State:
        return self.replayed([*self.entries, *since])


class RunLog(DriverLog[RunState]):
    """The log of a run."""

    def __init__(self, track: Track) -> None:
        """Reads the track's log."""
        self.track = track
        super().__init__(track, lambda entries: replay(track.team, track.name, entries), "run")
