"""A new stream from the first tasks of another, which is left as it is."""

from dataclasses import dataclass

from cluster.errors import ConfigError
from orchestrator.run.driver_log import RunLog
from orchestrator.track import events
from orchestrator.track.events import Commit
from orchestrator.track.layout import manifest_key
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track, manifest_files
from trainers.method_config import AdapterConfig, MethodConfig


@dataclass(frozen=True)
class Fork:
    """The stream begins with copies of the first `tasks` tasks of `source`, which learned them with `adapter`; None if
    its log does not say."""

    source: Track
    tasks: int
    adapter: MethodConfig | None = None

    def check(self, adapter: MethodConfig) -> None:
        """Raises ConfigError if a run with these settings cannot go on from the tasks, or would not protect them."""
        learned = self.adapter.method if self.adapter else "oa"
        if self.tasks and learned != adapter.method:
            raise ConfigError(
                f"adapter.method: {adapter.method} cannot go on from {self.source.label}, whose tasks {learned} "
                f"learned; set adapter.method to {learned}"
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
    return Fork(source, committed if from_task is None else from_task - 1, adapter)


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
    target.store.put(manifest_key(prefix), fork.source.store.get(manifest_key(commit.prefix)))
    target.read_manifest(prefix, commit.manifest_sha256)
    shared = {"validation", "test", "zero_shot", "union"} & commit.model_fields_set
    scores = {split: getattr(commit, split)[: fork.tasks] for split in shared}  # later tasks may be others here
    return commit.model_copy(update={**scores, "prefix": prefix, "forked_from": state.reference(commit)})
