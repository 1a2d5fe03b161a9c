"""A new stream from the first tasks of another, which is left as it is."""

from collections.abc import Collection
from dataclasses import dataclass

from cluster.errors import ConfigError
from orchestrator.run.driver_log import RunLog
from orchestrator.track import events
from orchestrator.track.events import Commit
from orchestrator.track.layout import manifest_key
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import MOST_MANIFEST_BYTES, Track, manifest_files
from trainers.method_config import AdapterConfig, FunctionalConfig, MethodConfig, OrthogonalityConfig


@dataclass(frozen=True)
class Fork:
    """The stream begins with copies of the first `tasks` tasks of `source`, which learned them with `adapter`; None if
    its log does not say. `imported` are the layers of an adapter from elsewhere, if that is what they are."""

    source: Track
    tasks: int
    adapter: MethodConfig | None = None
    imported: frozenset[str] = frozenset()

    def check(self, adapter: MethodConfig) -> None:
        """Raises ConfigError if a run with these settings cannot go on from the tasks, or would not protect them."""
        learned = self.adapter.method if self.adapter else "oa"
        if self.imported and isinstance(adapter, AdapterConfig):
            self._check_start(adapter)
        elif self.tasks and learned != adapter.method:
            raise ConfigError(
                f"adapter.method: {adapter.method} cannot go on from {self.source.label}, whose tasks {learned} "
                f"learned; set adapter.method to {learned}{' or oa' if self.imported else ''}"
            )
        if not self.tasks or not isinstance(adapter, AdapterConfig) or not isinstance(self.adapter, AdapterConfig):
            return
        if not adapter.protects_tasks_of(self.adapter):
            then = self.adapter.orthogonality
            raise ConfigError(
                f"adapter: the tasks of {self.source.label} kept nothing that `functional`, or the input side, could "
                "protect them by; go on as they were trained: --set adapter.functional.weight=0 "
                f"--set adapter.orthogonality.side={then.side} --set adapter.orthogonality.weight={then.weight:g}"
            )

    def check_layers(self, layers: Collection[str], adapter: MethodConfig) -> None:
        """Raises ConfigError unless a run with these target layers can go on from an adapter from elsewhere, if it
        begins with one: all layers of that are among them and, for the method that it is of, no others."""
        if not self.imported:
            return
        more = isinstance(adapter, AdapterConfig)
        if wrong := sorted(self.imported - {*layers}) or sorted({*layers} - self.imported if not more else ()):
            says = "does not adapt" if wrong[0] in self.imported else "adapts"
            raise ConfigError(
                f"adapter.target_modules: the run {says} {wrong[0]!r} ({len(wrong)} such layers), and the adapter of "
                f"{self.source.label} {'does' if says != 'adapts' else 'does not'}; `orthoplex adapters show` "
                "lists its layers"
            )
        was, now = (each.model_dump().get("rank") if each else None for each in (self.adapter, adapter))
        if not more and not adapter.needs_task and was != now:
            raise ConfigError(
                f"adapter.rank: {now}, but the adapter of {self.source.label} that goes on has {was}; set that"
            )

    def _check_start(self, adapter: AdapterConfig) -> None:
        """An imported LoRA is taken into W0; of what it learned, Q alone is known."""
        if adapter.history != "folded":
            raise ConfigError(
                f"adapter.history: {adapter.history} leaves the weights as they are, and oa takes the LoRA of "
                f"{self.source.label} into them; set adapter.history to folded"
            )
        unfelt = {"functional": FunctionalConfig(weight=0.0), "orthogonality": OrthogonalityConfig()}
        kept = adapter.model_copy(update=unfelt)
        if not adapter.protects_tasks_of(kept):
            raise ConfigError(
                f"adapter: {self.source.label} was imported, and of what it learned only the directions that it writes "
                "are known; protect these with --set adapter.orthogonality.side=output --set "
                "adapter.orthogonality.mode=projection, or protect no task with --set adapter.functional.weight=0 "
                "--set adapter.orthogonality.side=none"
            )


def plan_fork(source: Track, from_task: int | None) -> Fork:
    """A fork of all committed tasks, or of those before task number `from_task`, counted from 1.

    Raises:
        ConfigError: the source does not hold them.
    """
    state = replay(source.team, source.name, source.entries())
    committed = len(state.commits)
    if state.joint:
        raise ConfigError(
            f"--fork: {source.label} learned all its tasks at once (train.joint); begin a run without --fork"
        )
    if not committed and from_task != 1:
        raise ConfigError(f"--fork: {source.label} has no committed task to begin with; run it first")
    if from_task is not None and not 1 <= from_task <= committed + 1:
        raise ConfigError(f"--from-task {from_task}: {source.label} has {committed} tasks; use 1 to {committed + 1}")
    adapter = state.completed().adapter if state.config else None
    tasks = committed if from_task is None else from_task - 1
    imported = frozenset(state.commits[0].budget) if state.imported and tasks else frozenset()
    return Fork(source, tasks, adapter, imported)


def take_over(log: RunLog, fork: Fork) -> None:
    """Copies what is missing of the source's tasks into a run whose lease is held. May be cut, and called again.

    Raises:
        ConfigError: the run exists, and is not this fork.
    """
    state, begun = replay(fork.source.team, fork.source.name, fork.source.entries()), log.state.fork
    if begun is None:
        if log.state.commits or log.state.config:
            raise ConfigError(f"--fork {log.track.name!r}: a run of that name exists already; choose another")
        log.append(events.Fork(source=fork.source.label, tasks=fork.tasks, described=state.tasks[: fork.tasks]))
    elif (begun.source, begun.tasks) != (fork.source.label, fork.tasks):
        was = f"the first {begun.tasks} tasks of {begun.source}"
        raise ConfigError(f"--fork {log.track.name!r}: was begun from {was}; choose another name, or ask for that")
    for index in range(len(log.state.commits), fork.tasks):
        log.append(copied(fork, state, index, log.track))


def copied(fork: Fork, state: RunState, index: int, target: Track) -> Commit:
    """The commit of one task with its files under a prefix of `target`, every digest checked; the manifest as it is."""
    commit = state.commits[index]
    manifest = fork.source.manifest_of(commit)
    prefix = target.fresh_prefix()
    for path in manifest_files(manifest):
        target.store.put(f"{prefix}/{path}", fork.source.read_file(commit.prefix, manifest, path))
    target.store.put(manifest_key(prefix), fork.source.store.get(manifest_key(commit.prefix), MOST_MANIFEST_BYTES))
    target.read_manifest(prefix, commit.manifest_sha256)
    shared = {"validation", "test", "zero_shot", "union"} & commit.model_fields_set
    scores = {split: getattr(commit, split)[: fork.tasks] for split in shared}  # later tasks may be others here
    return commit.model_copy(update={**scores, "prefix": prefix, "forked_from": state.reference(commit)})
