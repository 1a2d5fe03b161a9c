"""Where a run stands: a pure function of its track's log.

Entries of a run: `start` (a driver took it up), `fork` (it begins as another stream), `open` (configuration and data),
`workers` (a worker group is there), `retry` (it broke, and why the task goes on), `commit` (one task, whole), `renew`
(the driver is alive), and how the driver left: `finish`, `stop` (a guard), `interrupt`, `fail`. Of the entries that
others leave in the log, those of the
garbage collector count: no `commit` stands whose files an earlier `abort` names, and `delete` takes versions away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import ConfigError
from orchestrator.config.run import RunConfig
from orchestrator.log.decision import Decided, decided
from orchestrator.log.entry import Entry
from orchestrator.track import metrics
from orchestrator.track.bounds import Measured
from orchestrator.track.driving import counted

DRIVERS = ("start", "fork", "open", "workers", "retry", "commit", "renew")
ENDINGS = {"finish": "finished", "stop": "stopped", "interrupt": "interrupted", "fail": "failed"}
Matrix = list[list[float | None]]


@dataclass(frozen=True)
class RunState:
    """The replayed log. `commits` and `tasks` hold the bodies of log entries in task order.

    `driver` is the `start` entry of the driver that holds the run, None where it has left: its body with seq, actor and
    time; `heard` is the newest entry of any driver, `head` the newest of all; `fork` says as what stream it began.
    `progress` is where the task in training stood when its driver last renewed: index, phase, step, total_steps, loss.
    `decisions` are what was decided automatically, in order.
    """

    team: str
    name: str
    state: str = "absent"
    reason: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[Mapping[str, Any], ...] = ()
    commits: tuple[Mapping[str, Any], ...] = ()
    head: Entry | None = None
    deleted: frozenset[int] = frozenset()
    driver: Mapping[str, Any] | None = None
    heard: Entry | None = None
    fork: Mapping[str, Any] | None = None
    progress: Mapping[str, Any] | None = None
    decisions: tuple[Decided, ...] = ()

    @property
    def zero_shot(self) -> list[float | None]:
        """Accuracy of the untrained model on each task's test split, (T,)."""
        return self._padded(self.commits[0].get("zero_shot", []) if self.commits else [])

    def matrix(self, split: str) -> Matrix:
        """The T × T accuracy matrix on `validation` or `test`; rows of tasks not yet trained are None."""
        rows = [self._padded(commit[split]) for commit in self.commits]
        return rows + [[None] * len(self.tasks) for _ in range(len(self.tasks) - len(rows))]

    def metrics(self, split: str) -> dict[str, float | None]:
        """Accuracy metrics over the committed tasks, as fractions."""
        sizes = [task["rows"][split] for task in self.tasks]
        return metrics.summary(self.matrix(split)[: len(self.commits)], self.zero_shot, sizes)

    @property
    def measured(self) -> Measured:
        """What bounds are compared with: the validation split, and the parameters of all tasks."""
        found, parameters = self.metrics("validation"), self.total("active_parameters")
        return Measured(
            tasks=len(self.commits), average_accuracy=found["aa"], forgetting=found["forgetting"],
            active_parameters=parameters,
        )  # fmt: skip

    def total(self, key: str) -> int:
        """Sum over committed tasks of `active_parameters` or `stored_bytes`."""
        return sum(commit[key] for commit in self.commits)

    @property
    def time_left_s(self) -> float | None:
        """Seconds until the stream is done, if the tasks left take as long a training row as those done; None before
        the first."""
        sizes = [task["rows"]["train"] for task in self.tasks]
        done = len(self.commits)
        if not done or not sum(sizes[:done]):
            return None
        spent = sum(commit["cost"]["train_s"] + commit["cost"]["evaluate_s"] for commit in self.commits)
        return float(spent * sum(sizes[done:]) / sum(sizes[:done]))

    def reference(self, commit: Mapping[str, Any]) -> str:
        """How a committed task is named in commands: team/track@vN."""
        return f"{self.team}/{self.name}@v{commit['version']}"

    def _padded(self, scores: Sequence[Mapping[str, int]]) -> list[float | None]:
        row: list[float | None] = [score["correct"] / score["rows"] for score in scores]
        return row + [None] * (len(self.tasks) - len(row))


def replay(team: str, name: str, entries: Sequence[Entry]) -> RunState:
    """Reads a run's entries, oldest first, into its state."""
    state, reason = "absent", None
    config: Mapping[str, Any] = {}
    tasks: tuple[Mapping[str, Any], ...] = ()
    commits: list[Mapping[str, Any]] = []
    driver: Mapping[str, Any] | None = None
    heard, lease, fork, progress = None, None, None, None
    aborted, deleted = set[str](), set[int]()
    for entry in entries:
        if entry.body.get("lease", lease) != lease:
            continue  # written by a driver that was taken over from
        if entry.op == "open":
            config, tasks = entry.body["config"], tuple(entry.body["tasks"])
        elif entry.op == "fork":
            fork, tasks = entry.body, tuple(entry.body["described"])
        elif entry.op == "commit" and entry.body.get("prefix") not in aborted:
            commits.append({**entry.body, "time": entry.time})
        elif entry.op == "start":
            driver, lease = {**entry.body, "seq": entry.seq, "actor": entry.actor, "time": entry.time}, entry.seq
        elif entry.op == "abort":
            aborted.update(entry.body["prefixes"])
        elif entry.op == "delete":
            deleted.update(entry.body["versions"])
        if entry.op in (*DRIVERS, *ENDINGS):
            heard, progress = entry, entry.body.get("progress")
        if entry.op in ("open", "start"):
            state, reason = "running", None
        if entry.op in ENDINGS:
            state, reason, driver = ENDINGS[entry.op], entry.body.get("reason"), None
    head = entries[-1] if entries else None
    return RunState(
        team, name, state, reason, config, tasks, tuple(commits), head, frozenset(deleted), driver, heard, fork,
        progress, decided(counted(entries)),
    )  # fmt: skip


def status(state: RunState) -> dict[str, Any]:
    """What `status RUN --json` prints. Values are fractions, null where not evaluated.

    `matrix` and `metrics` are of the test split, for reporting alone; decisions read `validation_matrix`.
    """
    driver = None
    if state.driver and state.heard:
        driver = {key: state.driver[key] for key in ("actor", "time", "lease_s")} | {"heard": state.heard.time}
    return {
        "name": state.name,
        "team": state.team,
        "state": state.state,
        "reason": state.reason,
        "driver": driver,
        "progress": state.progress,
        "time_left_s": state.time_left_s,
        "tasks": [_task_status(state, index) for index in range(len(state.tasks))],
        "matrix": state.matrix("test"),
        "validation_matrix": state.matrix("validation"),
        "zero_shot": state.zero_shot,
        "metrics": {
            **state.metrics("test"),
            "active_parameters": state.total("active_parameters"),
            "stored_bytes": state.total("stored_bytes"),
        },
        "validation_metrics": state.metrics("validation"),
        "decisions": [each.shown() for each in state.decisions],
    }


def _task_status(state: RunState, index: int) -> dict[str, Any]:
    task = state.tasks[index]
    common = {"name": task["name"], "labels": task["labels"], "rows": task["rows"]}
    if index >= len(state.commits):
        running = state.state == "running" and index == len(state.commits)
        return {**common, "state": "running" if running else "pending"}
    commit = state.commits[index]
    kept = ("version", "active_parameters", "stored_bytes", "overlap", "occupancy", "budget", "cost")
    return {**common, "state": "done", "ref": state.reference(commit), **{key: commit.get(key) for key in kept}}


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Leaves where two configurations differ, as (dotted path, old value, new value); an absent one is None."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            found
            for key in sorted({*old, *new})
            for found in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [(path, old, new)]


HARMLESS = (  # keys, and sections as a whole
    "cluster", "data_dir", "deepspeed", "guards", "store", "tracking", "train.eval_batch_size",
    "train.checkpoint_steps", "train.compile", "train.gradient_accumulation_steps", "train.gradient_checkpointing",
    "train.logging_steps", "train.on_out_of_memory",
)  # fmt: skip


def forbidden_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Changes that would make the stream's tasks incomparable, one readable line each.

    Where it runs, how it is sharded and reported, and its guards may change between two starts of a run; tasks may be
    appended. What is learned, on which data and in which order may not.
    """
    lines = [
        f"{path}: was {before!r}, is now {after!r}"
        for path, before, after in differences(without(old, ["tasks"]), without(new, ["tasks"]))
        if not within(path, HARMLESS)
    ]
    before, after = old["tasks"], new["tasks"]
    if len(after) < len(before):
        lines.append(f"tasks: had {len(before)}, now {len(after)}; tasks may only be appended")
    for index, (a, b) in enumerate(zip(before, after, strict=False)):
        place = f"tasks.{index}"
        changed = differences(without(a, ["resources"]), without(b, ["resources"]), place)
        lines += [f"{path}: was {x!r}, is now {y!r}" for path, x, y in changed]
    return lines


def within(path: str, keys: Sequence[str]) -> bool:
    """Whether a dotted path is one of the keys or below one."""
    return any(f"{path}.".startswith(f"{key}.") for key in keys)


def without(config: Mapping[str, Any], keys: Sequence[str], path: str = "") -> dict[str, Any]:
    """A configuration without the keys, given as dotted paths, and what is below them."""
    kept = {}
    for name, value in config.items():
        dotted = f"{path}.{name}" if path else name
        if not within(dotted, keys):
            kept[name] = without(value, keys, dotted) if isinstance(value, Mapping) else value
    return kept


def objections(state: RunState, config: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why the run cannot go on with this configuration and these `tasks` (descriptions of data), a line each.

    None where no task is committed yet: nothing would become incomparable.
    """
    if not state.commits:
        return []
    pairs = zip(state.tasks, tasks, strict=False)
    changed = [task["name"] for begun, task in pairs if begun["fingerprint"] != task["fingerprint"]]
    return [
        *(forbidden_changes(completed(state.config), config) if state.config else []),
        *(f"task {name!r}: its rows differ from those the run was begun with" for name in changed),
        *(
            f"v{version}: was deleted by `adapters gc`, and nothing can stand on it"
            for version in sorted(state.deleted)
        ),
    ]


def completed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored configuration with the defaults of keys that came later; as it is, where it is none of today's."""
    try:
        return RunConfig.model_validate(config).model_dump(mode="json")
    except ValueError:
        return config


def refuse(name: str, objections: Sequence[str]) -> None:
    """Raises ConfigError where there is an objection to going on with the run `name`."""
    if objections:
        shown = "\n".join(f"  {objection}" for objection in objections)
        raise ConfigError(
            f"the run {name!r} was begun otherwise:\n{shown}\nPut these back, give the "
            "configuration another `name`, or go on from its tasks in a new run, with --fork NAME"
        )
