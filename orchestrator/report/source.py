"""What a report of a run is made of: its log replayed, and the files of its versions, each read once.

A file that is missing or damaged leaves a gap and a fault to tell; the rest is shown all the same.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from cluster.errors import ConfigError, StoreError
from orchestrator.config.run import RunConfig
from orchestrator.console.curves import Curves, curves_of
from orchestrator.followed.records import records_of
from orchestrator.followed.trend import Series, trend
from orchestrator.log.chain import READERS
from orchestrator.log.entry import Entry
from orchestrator.registry.decisions import Decided, of_commit, training_log
from orchestrator.registry.samples import Sample, samples
from orchestrator.track.events import Committed
from orchestrator.track.rules import RulesLog
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track
from trainers.data.generative.config import GenerativeTask
from trainers.training.decisions import Columns

V = TypeVar("V")


class Told(BaseModel):
    """Part of a manifest. What else it holds is left out."""

    model_config = ConfigDict(frozen=True)


class Angles(Told):
    """Principal angles in degrees between what two tasks write, over all layers."""

    smallest: float
    mean: float


class CodeTold(Told):
    """The code that trained a version."""

    packages: dict[str, str] = Field(default_factory=dict)
    git_commit: str | None = None
    git_changed: bool | None = None


class ManifestTold(Told):
    """What a report reads of a manifest."""

    principal_angles: tuple[Angles, ...] = ()
    code: CodeTold = CodeTold()


@dataclass
class Source:
    """A run: its track, the entries of its log, and its state. `faults` says what could not be read."""

    track: Track
    entries: Sequence[Entry]
    state: RunState
    faults: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, track: Track) -> "Source":
        """That of a track. Raises IntegrityError if its log is damaged."""
        entries = track.entries()
        return cls(track, entries, replay(track.team, track.name, entries))

    @cached_property
    def config(self) -> RunConfig | None:
        """The configuration; None if there is none, or this version cannot read it."""
        return self.state.readable_config()

    @cached_property
    def names(self) -> list[str]:
        """The names of the tasks."""
        return [task.name for task in self.state.tasks]

    @cached_property
    def manifests(self) -> Mapping[int, ManifestTold]:
        """What the manifests of the versions say, by version."""
        return self._each(lambda commit: ManifestTold.model_validate(self.track.manifest_of(commit)))

    @cached_property
    def logs(self) -> Mapping[int, Columns]:
        """The training logs, by version."""
        return self._each(lambda commit: training_log(self.track, commit))

    @cached_property
    def curves(self) -> list[Curves]:
        """How the training of each task went, as far as it is logged."""
        if self.config is None:
            return []
        found = ((commit, self.logs.get(commit.version)) for commit in self.state.standing)
        return [made for commit, log in found if log and (made := curves_of(self.state, commit, log))]

    @cached_property
    def answers(self) -> Mapping[str, Sequence[Sample]]:
        """The kept answers of each generative task that has some."""
        found: dict[str, Sequence[Sample]] = {}
        for task in self.config.tasks if self.config else ():
            if isinstance(task, GenerativeTask):
                try:
                    found[task.name] = samples(self.track, self.state, task.name)
                except ConfigError:  # none are kept
                    continue
                except StoreError as error:
                    self.faults.append(str(error))
        return found

    @cached_property
    def rules(self) -> RulesLog:
        """The rules of the team."""
        return RulesLog(self.track.store, self.state.team)

    @cached_property
    def recorded(self) -> Sequence[Series]:
        """How recorded scores went."""
        try:
            return trend(records_of(self.track))
        except StoreError as error:
            self.faults.append(str(error))
            return []

    @cached_property
    def decisions(self) -> Mapping[int, Decided]:
        """What was decided per module, by version."""
        return self._each(lambda commit: of_commit(self.track, self.state, commit))

    def _each(self, read: Callable[[Committed], V]) -> Mapping[int, V]:
        """What is read of each version that stands, by version."""
        with ThreadPoolExecutor(READERS) as pool:
            asked = [(commit, pool.submit(read, commit)) for commit in self.state.standing]
        found: dict[int, V] = {}
        for commit, future in asked:
            try:
                found[commit.version] = future.result()
            except (StoreError, ValueError) as error:  # of a manifest: a key that is malformed
                self.faults.append(f"{self.state.reference(commit)}: {error}")
        return found
