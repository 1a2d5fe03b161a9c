"""The screens of a run: bars on a terminal, plain lines elsewhere."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from cluster.errors import ConfigError
from orchestrator.console.html import Page
from orchestrator.console.scores import floors_line, number, percent, scores, scores_so_far
from orchestrator.track.events import Committed, Floors
from orchestrator.track.state import SPLITS, RunState
from trainers.config import GREEDY
from trainers.data.generative.config import GenerativeTask
from trainers.messages import Progress
from trainers.method_config import AdapterConfig

if TYPE_CHECKING:  # what a plan needs to be made takes seconds to import
    from orchestrator.registry.samples import Sample
    from orchestrator.run.plan import Plan, PlannedAnswers, PlannedTask

Column = Sequence[float | Sequence[float] | None]  # of training.parquet: g of a module is a vector per step
Logged = Mapping[str, Column]
GIB = 2**30
OTHER_BUDGETS = {"threshold": 0.3, "rank": 4}  # a value to try of the key that decides it, in whichever method has it
out = Console(highlight=False, soft_wrap=True)


@contextmanager
def screens_on(stream: TextIO) -> Iterator[None]:
    """Everything that `out` prints within goes to `stream`, whatever standard output becomes."""
    before = out._file
    out.file = stream
    try:
        yield
    finally:
        out._file = before  # None: standard output as it is when something is printed


class RunReporter:
    """Follows a run: bars on a terminal, one line per quarter of a task elsewhere."""

    def __init__(self, tasks: int) -> None:
        """`tasks` is the length of the stream."""
        self.tasks = tasks
        self.bar: TaskID | None = None
        self.quarter = (-1, -1)
        self.bars = Bars(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"), console=out, transient=True, disable=not out.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> "RunReporter":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def say(self, message: str) -> None:
        """One line."""
        out.print(escape(message))

    def taken(self, state: RunState) -> None:
        """Shows nothing: what is committed already was said."""

    def progress(self, task: str, progress: Progress) -> None:
        """Moves the bar, or prints a line at each quarter of training and when a task is resumed."""
        title = f"[{progress.index + 1}/{self.tasks}] {task}: {progress.phase}"
        detail = ""
        if progress.phase == "train":
            detail = (
                f"loss {number(progress.loss, '.3f')}  penalty {number(progress.orthogonality, '.2e')}  "
                f"overlap {number(progress.overlap, '.1%')}  r_eff {number(progress.mean_rank, '.1f')}"
            )
        if out.is_terminal:
            if self.bar is None:
                self.bar = self.bars.add_task(escape(title), total=progress.total_steps, detail=detail)
            self.bars.update(
                self.bar, description=escape(title), completed=progress.step, total=progress.total_steps, detail=detail
            )
            return
        quarter = (progress.index, 4 * progress.step // progress.total_steps)
        if progress.phase == "resume":
            out.print(escape(f"{title} {progress.step}/{progress.total_steps}  from its checkpoint"))
        elif progress.phase == "train" and quarter != self.quarter:
            self.quarter = quarter
            out.print(escape(f"{title} {progress.step}/{progress.total_steps}  {detail}"))

    def committed(self, state: RunState) -> None:
        """A line about the task that was just committed."""
        commit = state.commits[-1]
        ranks = [module.rank for module in commit.budget.values()]
        mean = number(sum(ranks) / len(ranks) if ranks else None, ".1f")
        seconds = state.time_left_s
        left = f"; about {duration(seconds)} left" if seconds else ""
        took = f"{commit.cost.train_s:.0f} s training" if commit.cost else "not trained here"
        out.print(
            f"[{state.learned}/{self.tasks}] {commit.task}: committed as {state.reference(commit)}; "
            f"{scores_so_far(state)}; mean r_eff {mean}; {took}{left}",
            markup=False,
        )


def print_table(table: Table) -> None:
    """Prints a table in its full width. A narrow terminal wraps it, and nothing is cut off."""
    if isinstance(out.file, Page):
        return out.file.table(table)
    whole = Measurement.get(out, out.options.update(max_width=100_000), table).maximum
    Console(highlight=False, soft_wrap=True, width=max(whole, out.width)).print(table)
    return None


def budget_table(state: RunState) -> Table:
    """r_eff of each module (rows) for each committed task (columns)."""
    table = Table(title="Budget chosen: active dimensions r_eff (of max_rank)", title_justify="left")
    table.add_column("module")
    for commit in state.commits:
        table.add_column(escape(commit.task), justify="right")
    for module in dict.fromkeys(module for commit in state.commits for module in commit.budget):
        table.add_row(escape(module), *(chosen_rank(commit, module) for commit in state.commits))
    return table


def chosen_rank(commit: Committed, module: str) -> str:
    """r_eff of r_max, or a dot if the commit does not say."""
    budget = commit.budget.get(module)
    return f"{budget.rank:.0f}/{budget.max_rank:.0f}" if budget else "·"


def print_status(state: RunState) -> None:
    """State, accuracy matrix, metrics and budgets of a run."""
    done = state.learned
    out.print(f"{state.label}: {state.status}, {done} of {len(state.tasks)} tasks", markup=False)
    if told := state.driving.told:
        out.print(f"  {told}", markup=False)
    if state.status == "running" and state.driving.heard:
        print_running(state, state.driving.heard.time)
    if not done:
        return
    for table, lines in scores(state):
        print_table(table)
        out.print("\n".join(lines), markup=False)
    scored = [any(each.rows for commit in state.commits for each in getattr(commit, split)) for split in SPLITS]
    if scored == [True, False]:
        out.print("  no test split was scored: a trial of a sweep is scored on validation alone; --json has its scores")
    out.print(f"  {'active adapter parameters':<32}{number(state.active_parameters, ',.0f'):>8}{counted(state)}")
    out.print(f"  {'stored bytes':<32}{state.stored_bytes:>8,}")
    print_kept(state.commits[-1])
    out.print()
    if any(commit.budget for commit in state.commits):
        print_table(budget_table(state))


def counted(state: RunState) -> str:
    """What the parameters are, if the log says by which method they were learned."""
    with suppress(ConfigError):
        return f"  {state.completed().adapter.counted} of all tasks"
    return ""


def print_kept(commit: Committed) -> None:
    """What the weights hold of the change that the tasks up to a commit make to them, if they are rounded."""
    if (kept := commit.kept) and kept.modules:
        share, layer = min((share, layer) for layer, share in kept.modules.items())
        title = "change kept by rounded weights"
        out.print(f"  {title:<32}{percent(kept.overall):>8}%  least {percent(share)}% in {layer}", markup=False)


def print_running(state: RunState, heard: str) -> None:
    """Who drives a run, what it trains, and how long that may take."""
    if at := state.driving.progress:
        name = "all at once" if state.joint else state.tasks[at.index].name
        place = f"[{at.index + 1}/{len(state.tasks)}] {name}"
        out.print(f"  {place}: {at.phase} {at.step}/{at.total_steps}", markup=False)
    if left := state.time_left_s:
        out.print(f"  about {duration(left)} of training and evaluation left for the tasks not committed")
    if driver := state.driving.driver:
        out.print(f"  driven by {driver.actor}, last heard of at {heard}", markup=False)
        silent = (datetime.now(UTC) - datetime.fromisoformat(heard)).total_seconds()
        if silent > driver.start.lease_s:
            out.print(f"  silent for {duration(silent)}: it may be gone; `orthoplex run` takes over where it is")


def duration(seconds: float) -> str:
    """Seconds in words: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_outcome(state: RunState, store: str, answers: "Sequence[Sample]" = ()) -> None:
    """Prints the end of `run`: status, answers before and after, places of the adapters, commands to try next."""
    from orchestrator.console.samples import print_striking

    print_status(state)
    print_striking(answers)
    out.print(f"\nAdapters, in {store}:", markup=False)
    for commit in state.commits:
        out.print(f"  {state.reference(commit)}  {commit.task}  {store}/{commit.prefix}", markup=False)
    flag = f" --store {shlex.quote(store)}"
    keys = type(state.completed().adapter).model_fields
    other = [f"adapter.{key}={value}" for key, value in OTHER_BUDGETS.items() if key in keys]
    commands = [
        f"status {state.label}{flag} --json",
        f"explain {state.label}{flag}        why each layer got its budget",
        *(f"samples {state.label} --task {each.task}{flag}        all answers to it so far" for each in answers[:1]),
        f"adapters list{flag}",
        *(f"predict {ref} TEXT --task {task}{flag}        answer a new text with it" for ref, task in answering(state)),
        *(f"run CONFIG --set name=other --set {value}        another budget, beside this one" for value in other),
    ]
    out.print("\n".join(["\nNext:", *(f"  orthoplex {command}" for command in commands)]), markup=False)


def answering(state: RunState) -> list[tuple[str, str]]:
    """The newest version and its task, if that answers texts."""
    task = state.completed().tasks[state.learned - 1] if state.commits else None
    if task is None or (isinstance(task, GenerativeTask) and task.form == "text"):
        return []
    return [(state.reference(state.commits[-1]), task.name)]


def print_plan(plan: "Plan") -> None:
    """The plan as tables."""
    state = "not begun" if plan.state == "absent" else plan.state
    workers = plan.workers if isinstance(plan.workers, int) else "{min} to {max}".format(**plan.workers)
    noun = "worker" if workers == 1 else "workers"
    out.print(f"{plan.name}: {state}; {workers} {noun}, ZeRO-{plan.zero_stage}; store {plan.store}", markup=False)
    table = Table(title="Tasks", title_justify="left")
    for column in ("task", "state", "labels", "train", "validation", "test", "steps"):
        table.add_column(column, justify="left" if column in ("task", "state") else "right")
    for task, steps in zip(plan.tasks, plan.steps, strict=True):
        sizes = (task["rows"][split] for split in ("train", "validation", "test"))
        labels = f"{len(task['labels']):,}" if task["labels"] else "·"
        table.add_row(escape(task["name"]), task["state"], labels, *(f"{n:,}" for n in (*sizes, steps)))
    print_table(table)
    if 0 in plan.steps:
        out.print("all tasks are trained at once, in the steps of the last one (train.joint)")
    for task in plan.tasks:
        print_rows(task)
    protected = f"; earlier tasks are protected: {'; '.join(plan.protected)}" if plan.protected else ""
    out.print(f"method: {plan.method}{protected}", markup=False)
    out.print(f"adapted layers: {len(plan.modules)}")
    for name, width in plan.modules.items():
        out.print(f"  {name} (width {width})", markup=False)
    out.print(
        f"base parameters: {plan.base_parameters:,}\n"
        f"trainable parameters per task: {plan.trained_parameters:,}; "
        f"kept parameters per task: at most {plan.most_kept_parameters:,}"
    )
    print_evaluation(plan)
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in plan.memory_per_worker_bytes.items())
    out.print(f"estimated memory per worker: {sum(plan.memory_per_worker_bytes.values()) / GIB:.2f} GiB ({parts})")
    if plan.rounding:
        out.print(f"rounding: {plan.rounding}", markup=False)
    out.print("will write:")
    for line in plan.writes:
        out.print(f"  {line}", markup=False)


def print_evaluation(plan: "Plan") -> None:
    """What the evaluation of the whole run takes, and what it keeps of the data."""
    cost = plan.evaluation
    generated = f"; at most {cost['generated_tokens']:,} tokens generated" if cost["generated_tokens"] else ""
    out.print(
        f"evaluation: {cost['passes']:,} passes over splits, {cost['rows']:,} rows beside {cost['trained_rows']:,} "
        f"trained rows{generated}; evaluate.tasks, every and rows make it less"
    )
    if kept := cost["kept_answers"]:
        out.print(
            f"kept answers: up to {kept:,} test rows of each generative task, as text in the store; "
            "evaluate.keep_answers 0 keeps none"
        )


def print_rows(task: "PlannedTask") -> None:
    """A task's labels, the lengths of its rows, a row as the model reads it, and warnings."""
    name, tokens, example = task["name"], task["tokens"], task["example"]
    of = f"all {tokens['rows']:,} rows"
    if tokens["measured"] < tokens["rows"]:
        of = f"a sample of {tokens['measured']:,} of {tokens['rows']:,} rows"
    share = tokens["cut"] / tokens["measured"]
    shortened = f"; {tokens['shortened']:,} prompts lose their middle" if tokens.get("shortened") else ""
    heading = f"labels of {name}: {', '.join(task['labels'])}" if task["labels"] else f"{name}:"
    out.print(
        f"{heading}\n"
        f"  tokens per row: p50 {tokens['p50']:,}, p95 {tokens['p95']:,}, max {tokens['max']:,}, over {of}; "
        f"{tokens['cut']:,} ({share:.1%}) cut at max_length {tokens['max_length']:,}{shortened}\n"
        f"  example: {middle_cut(str(example['text']), 200, 100)!r}\n"
        f"  as tokens: {token_line(example['tokens'])}\n"
        f"  answer: {example['label']!r}" + (f", {token_line(answer)}" if (answer := example["answer_tokens"]) else ""),
        markup=False,
    )
    if answers := task["answers"]:
        out.print(f"  {answers_line(answers)}", markup=False)
    if floors := task["floors"]:
        shown = floors_line(Floors.model_validate(floors), task["rows"]["test"])
        out.print(f"  without a model: {shown}", markup=False)
    for warning in task["warnings"]:
        out.print(f"warning: {warning}", markup=False)


def answers_line(answers: "PlannedAnswers") -> str:
    """What a generative task is scored by, the limit of its answers, and decoding that is not the default."""
    scored = f"scored by {', '.join(answers['metrics'])}"
    if answers["max_new_tokens"] is None:
        return scored
    default = GREEDY.model_dump(mode="json")
    told = [f"{key} {value!r}" for key, value in answers["decoding"].items() if value != default[key]]
    return f"{scored}; answers of at most {answers['max_new_tokens']:,} tokens, {', '.join(told) or 'greedy'}"


def middle_cut(text: str, head: int, tail: int) -> str:
    """The text without its middle, if it has more than `head` + `tail` characters."""
    return text if len(text) <= head + tail else f"{text[:head]} … {text[-tail:]}"


def token_line(tokens: Sequence[object]) -> str:
    """Tokens between bars, at most the first 20 and the last 10, and how many there are."""
    shown = [*tokens[:20], "…", *tokens[-10:]] if len(tokens) > 30 else tokens
    return f"{' | '.join(map(str, shown))} ({len(tokens):,} in all)"


WHY = (
    "a dimension stays while |g| > τ. The task's loss pulls |g| up and τ down where a dimension helps; "
    "budget_weight {budget_weight} pulls the other way, starting from τ₀ = {threshold}."
)


def print_explanation(state: RunState, logs: Sequence[Logged]) -> None:
    """Why each layer has its budget: how r_eff and τ moved while the task trained.

    `logs` holds, per committed task, the columns of its training.parquet; none if it has no such file.
    """
    if not state.commits:
        out.print(f"{state.label}: {state.status}; no task is committed yet, so no budget is chosen")
        return
    explained = [(commit, log) for commit, log in zip(state.commits, logs, strict=True) if commit.budget and log]
    if not explained:
        out.print(f"{state.label}: no version says how its budget was chosen", markup=False)
        return
    settings = state.completed().adapter
    given = f"adapter.method {settings.method} gives every layer its rank."
    why = WHY.format(**settings.model_dump()) if isinstance(settings, AdapterConfig) else given
    out.print(f"{state.label}: {why}", markup=False)
    for commit, log in explained:
        title = f"{commit.task} ({state.reference(commit)})"
        print_table(
            choice_table(title, commit, log, settings.threshold)
            if isinstance(settings, AdapterConfig)
            else rank_table(title, commit, log)
        )
        shared = "" if commit.overlap is None else f"overlap with earlier tasks {number(commit.overlap, '.2%')}, "
        cost = f", training {commit.cost.train_s:.0f} s on {commit.cost.workers} workers" if commit.cost else ""
        out.print(f"  {shared}parameters {number(commit.active_parameters, ',.0f')}{cost}")


def choice_table(title: str, commit: Committed, log: Logged, threshold: float) -> Table:
    """How r_eff and τ of each module moved from `threshold`, and by which step r_eff stood."""
    table = Table("module", "max_rank → r_eff", "τ₀ → τ", "settled by step", title=escape(title), title_justify="left")
    for module, chosen in commit.budget.items():
        ranks, taus = numbers(log[f"rank/{module}"]), numbers(log[f"tau/{module}"])
        settled = next(log["step"][i] for i in range(len(ranks)) if len(set(ranks[i:])) == 1)
        moved = f"{number(threshold, '.3f')} → {number(taus[-1], '.3f')}"
        table.add_row(escape(module), f"{chosen.max_rank:.0f} → {ranks[-1]}", moved, str(settled))
    return table


def numbers(column: Column) -> list[float | None]:
    """A column that holds a number per step."""
    return [each for each in column if not isinstance(each, Sequence)]


def rank_table(title: str, commit: Committed, log: Logged) -> Table:
    """Each module's rank, and how large its update became, if the log has that."""
    table = Table("module", "rank", "‖ΔW‖", title=escape(title), title_justify="left")
    for module, kept in commit.budget.items():
        norms = numbers(log.get(f"norm/{module}", [None]))
        table.add_row(escape(module), f"{kept.rank:.0f}", number(norms[-1], ".3f"))
    return table
