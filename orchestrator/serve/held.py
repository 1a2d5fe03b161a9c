"""The adapters that a server holds, over one base: which version answers now, and how it is changed while all go on.

A request takes the version once and keeps it to its end, so each answer is of one version. A moved alias has its
version loaded beside the one that answers, and then replaces it; the old one is freed with its last request.
"""

import gc
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from cluster.errors import ConfigError, OrthoplexError
from orchestrator.delivery.export import base_of, gpu_or_cpu, load_base
from orchestrator.delivery.predictor import Predictor
from orchestrator.log.entry import Entry
from orchestrator.registry.references import Version, parse_reference
from orchestrator.serve.problems import Problem
from orchestrator.serve.settings import ServeSettings, check_answers, check_one_base, versions_of
from orchestrator.track.moves import aliases
from orchestrator.track.state import replay
from orchestrator.track.track import Track
from trainers.data.sources import did_you_mean, listed
from trainers.models.base import Backbone

Say = Callable[[str], None]


@dataclass(eq=False)
class Held:
    """One served adapter. `alias` is followed in the log of `track`; None is a fixed version. `problem` says why it is
    not the version that it should be. `seen` counts the log's entries that are followed."""

    name: str
    track: Track
    alias: str | None
    predictor: Predictor
    since: int = field(default_factory=lambda: int(time.time()))
    problem: str | None = None
    seen: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be asked by: as it was given, with its team, and its version now."""
        with_team = f"{self.track.label}@{self.alias}" if self.alias else self.track.label
        return self.name, with_team, self.predictor.reference


class Adapters:
    """What `settings` name, loaded. `say` is told of changes and of what fails."""

    def __init__(self, settings: ServeSettings, say: Say) -> None:
        """Loads the base and all versions.

        Raises:
            ConfigError: as `versions_of`, or the base cannot be loaded. IntegrityError: it is another, or a file was
                changed.
        """
        self.settings, self.say = settings, say
        versions = versions_of(settings)
        self.first = versions[0]
        self.base: Backbone = load_base(base_of(self.first, settings.model), self.first, gpu_or_cpu(settings.device))
        self.loaded: WeakValueDictionary[str, Predictor] = WeakValueDictionary()
        self.held = [
            Held(name, version.track, alias_of(name), self.predictor(version))
            for name, version in zip(settings.adapters, versions, strict=True)
        ]
        self.stopped = threading.Event()
        self.follower = threading.Thread(target=self._follow, name="aliases", daemon=True)

    # ------------------------------------------------------------ asking

    def find(self, name: str | None) -> Held:
        """The adapter of that name; without a name, the only one. Raises Problem if there is none."""
        if name is None:
            if len(self.held) > 1:
                served = listed([held.name for held in self.held])
                raise Problem(
                    400,
                    f"model: is missing; this server has {served}",
                    param="model",
                    code="missing_required_parameter",
                )
            return self.held[0]
        found = next((held for held in self.held if name in held.names), None)
        if found is None:
            names = [held.name for held in self.held]
            hint = did_you_mean(name, names) or f"it has {listed(names)}"
            raise Problem(404, f"model {name!r}: is not served here; {hint}", param="model", code="model_not_found")
        return found

    # ------------------------------------------------------------ versions

    def predictor(self, version: Version) -> Predictor:
        """The version over the base; the one that is loaded already if there is one. Raises as `Predictor`."""
        key = version.commit.manifest_sha256
        found = self.loaded.get(key)
        if found is None:
            found = Predictor(version, base=self.base, batch_size=self.settings.batch_size, say=self.say)
            for known in found.repertoire.tasks.values():
                if known.generative:
                    with suppress(ConfigError):  # a task that cannot be asked says so when it is asked
                        found.writer(known)
            self.loaded[key] = found
        return found

    def refresh(self) -> None:
        """Looks once where the aliases point, and changes what answers. What fails leaves the version that answers."""
        for held in self.held:
            if held.alias is None:
                continue
            problem = self._changed(held, held.alias)
            if problem is not None and problem != held.problem:
                self.say(f"{held.name}: {problem}; {held.predictor.reference} goes on answering")
            held.problem = problem
        if len(self.loaded) > len({id(held.predictor) for held in self.held}):
            gc.collect()  # what is drained may hang in cycles

    def _changed(self, held: Held, alias: str) -> str | None:
        """Has the version answer that the alias names; why it does not, if so."""
        try:
            entries = held.track.catch_up()
            if len(entries) == held.seen and held.problem is None:
                return None
            version = pointed(held.track, entries, alias)
            if version is None:
                return f"the alias {alias!r} is not in the log any more"
            if version.reference == held.predictor.reference:
                held.seen = len(entries)
                return None
            check_answers(version)
            check_one_base(self.first, version)
            held.predictor, held.since, held.seen = self.predictor(version), int(time.time()), len(entries)
        except OrthoplexError as error:
            return str(error)
        except Exception as error:
            return f"its new version cannot be loaded ({type(error).__name__}: {error})"
        self.say(f"{held.name}: {version.reference} answers from now on")
        return None

    # ------------------------------------------------------------ following

    def follow(self) -> None:
        """Starts to look every `refresh_s` seconds, in a thread."""
        self.follower.start()

    def close(self) -> None:
        """Ends that."""
        self.stopped.set()
        if self.follower.is_alive():
            self.follower.join()

    def _follow(self) -> None:
        while not self.stopped.wait(self.settings.refresh_s):
            self.refresh()

    @property
    def problems(self) -> Sequence[str]:
        """What keeps adapters from being the versions that they should be."""
        return [f"{held.name}: {held.problem}" for held in self.held if held.problem]


def alias_of(name: str) -> str | None:
    """The alias in a reference; None if it names a version, or a run alone."""
    if "@" not in name:
        return None
    asked = parse_reference(name)
    return asked.which if asked.number is None else None


def pointed(track: Track, entries: list[Entry], alias: str) -> Version | None:
    """The version that an alias points to in a track with these entries; None if it is gone."""
    move = aliases(entries).get(alias)
    if move is None:
        return None
    state = replay(track.team, track.name, entries)
    return Version(track=track, entries=entries, state=state, commit=state.version(move.version))
