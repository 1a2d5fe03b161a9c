"""The screens of a run: bars on a terminal, plain lines elsewhere."""

import math
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from cluster.errors import ConfigError
from orchestrator.console.budgets import print_budgets
from orchestrator.console.notes import learned_nothing, notes
from orchestrator.console.scores import floors_line, number, percent, scores, scores_so_far, task_title
from orchestrator.console.screen import out, print_table
from orchestrator.console.views import ALL, View
from orchestrator.console.volume import volume
from orchestrator.track.events import Committed, Floors
from orchestrator.track.spending import spent
from orchestrator.track.state import SPLITS, RunState
from trainers.config import AT_ONCE, GREEDY
from trainers.data.generative.config import GenerativeTask
from trainers.messages import Progress

if TYPE_CHECKING:  # what a plan needs to be made takes seconds to import
    from orchestrator.registry.samples import Sample
    from orchestrator.run.plan import Plan, PlannedAnswers, PlannedTask
    from orchestrator.run.reckoning import Reckoned

GIB, MOST_FELT = 2**30, 6
OTHER_BUDGETS = {"threshold": 0.3, "rank": 4}  # a value to try of the key that decides it, in whichever method has it


class RunReporter:
    """Follows a run: bars on a terminal, one line per quarter of a task elsewhere; with `-v` one per logged step, with
    `-q` nothing."""

    def __init__(self, tasks: int) -> None:
        """`tasks` is the length of the stream."""
        self.tasks = tasks
        self.bar: TaskID | None = None
        self.quarter = (-1, -1)
        self.on_bars = out.is_terminal and not (volume.verbose or volume.quiet)
        self.bars = Bars(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"), console=out, transient=True, disable=not self.on_bars,
        )  # fmt: skip

    def __enter__(self) -> "RunReporter":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def say(self, message: str) -> None:
        """One line."""
        if not volume.quiet:
            out.print(escape(message))

    def taken(self, state: RunState) -> None:
        """Shows nothing: what is committed already was said."""

    def progress(self, task: str, progress: Progress) -> None:
        """Moves the bar, or prints a line at each quarter of training and when a task is resumed."""
        title = f"[{progress.index + 1}/{self.tasks}] {task}: {progress.phase}"
        detail = figures(progress) if progress.phase == "train" else ""
        if self.on_bars:
            if self.bar is None:
                self.bar = self.bars.add_task(escape(title), total=progress.total_steps, detail=detail)
            self.bars.update(
                self.bar, description=escape(title), completed=progress.step, total=progress.total_steps, detail=detail
            )
            return
        quarter = (progress.index, 4 * progress.step // progress.total_steps)
        if progress.phase == "resume":
            self.say(f"{title} {progress.step}/{progress.total_steps}  from its checkpoint")
        elif volume.verbose or (progress.phase == "train" and quarter != self.quarter):
            self.quarter = quarter
            self.say(f"{title} {progress.step}/{progress.total_steps}  {detail}".rstrip())

    def committed(self, state: RunState) -> None:
        """A line about the task that was just committed, and a note if it learned nothing."""
        commit = state.commits[-1]
        ranks = [module.rank for module in commit.budget.values()]
        mean = number(sum(ranks) / len(ranks) if ranks else None, ".1f")
        seconds = state.time_left_s
        left = f"; about {duration(seconds)} left" if seconds else ""
        took = f"{commit.cost.train_s:.0f} s training" if commit.cost else "not trained here"
        self.say(
            f"[{state.learned}/{self.tasks}] {task_title(state, commit)}: committed as {state.reference(commit)}; "
            f"{scores_so_far(state)}; mean r_eff {mean}; {took}{left}"
        )
        for note in learned_nothing(state, len(state.commits) - 1):
            self.say(f"note: {note}")


def figures(progress: Progress) -> str:
    """What a step of training measured; of the penalties those that there are."""
    penalties = {"penalty": progress.orthogonality, "functional": progress.functional}
    felt = "".join(f"{name} {number(each, '.2e')}  " for name, each in penalties.items() if not math.isnan(each))
    return (
        f"loss {number(progress.loss, '.3f')}  {felt}"
        f"overlap {number(progress.overlap, '.1%')}  r_eff {number(progress.mean_rank, '.1f')}"
    )


def print_status(state: RunState, view: View = ALL) -> None:
    """State, accuracy matrix, metrics, budgets and what stands out of a run, as far as the view asks for it."""
    done = state.learned
    out.print(f"{state.label}: {state.status}, {done} of {len(state.tasks)} tasks", markup=False)
    if told := state.driving.told:
        out.print(f"  {told}", markup=False)
    if state.status == "running" and state.driving.heard:
        print_running(state, state.driving.heard.time)
    if held := state.quarantined:
        out.print(f"  quarantined: {held.task}, which would be v{held.version}, since {held.time}", markup=False)
    if not done:
        return
    for table, lines in scores(state, view):
        print_table(table)
        out.print("\n".join(lines), markup=False)
    scored = [any(each.rows for commit in state.commits for each in getattr(commit, split)) for split in SPLITS]
    if scored == [True, False]:
        out.print("  no test split was scored: a trial of a sweep is scored on validation alone; --json has its scores")
    out.print(f"  {'active adapter parameters':<32}{number(state.active_parameters, ',.0f'):>8}{counted(state)}")
    out.print(f"  {'stored bytes':<32}{state.stored_bytes:>8,}")
    if taken := spent(state):
        bought = bill(taken.gpu_hours, taken.money, taken.currency)
        out.print(
            f"  {'seconds of training':<32}{taken.train_s:>8,.0f}  and {taken.evaluate_s:,.0f} of evaluation{bought}"
        )
    print_kept(state.commits[-1])
    print_felt(state.commits)
    print_notes(state)
    out.print()
    print_budgets(state, view)


def print_notes(state: RunState) -> None:
    """What stands out, unless only the result is asked for."""
    for note in () if volume.quiet else notes(state):
        out.print(f"note: {note}", markup=False)


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


def print_felt(commits: Sequence[Committed]) -> None:
    """The functional penalty at the last step of the newest tasks, if the method has one."""
    felt = [f"{each.task} {number(each.functional, '.2e')}" for each in commits if each.functional is not None]
    if felt:
        more = "… " * (len(felt) > MOST_FELT)
        out.print(f"  {'functional penalty at the end':<32}  {more}{', '.join(felt[-MOST_FELT:])}", markup=False)


def print_running(state: RunState, heard: str) -> None:
    """Who drives a run, what it trains, and how long that may take."""
    if at := state.driving.progress:
        name = AT_ONCE if state.joint else state.tasks[at.index].name
        place = f"[{at.index + 1}/{len(state.tasks)}] {name}"
        felt = "" if at.functional is None else f"  functional {number(at.functional, '.2e')}"
        out.print(f"  {place}: {at.phase} {at.step}/{at.total_steps}{felt}", markup=False)
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
    if volume.quiet:
        return
    print_striking(answers)
    out.print(f"\nAdapters, in {store}:", markup=False)
    for commit in state.commits:
        out.print(f"  {state.reference(commit)}  {task_title(state, commit)}  {store}/{commit.prefix}", markup=False)
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
    print_table(plan_table(plan))
    for task in plan.tasks:
        print_rows(task)
    protected = f"; earlier tasks are protected: {'; '.join(plan.protected)}" if plan.protected else ""
    out.print(f"method: {plan.method}{protected}", markup=False)
    per = f"of {AT_ONCE}" if plan.joint else "per task"
    out.print(f"adapted layers: {len(plan.modules)}")
    for line in layer_lines(plan.modules):
        out.print(f"  {line}", markup=False)
    out.print(
        f"base parameters: {plan.base_parameters:,}\n"
        f"trainable parameters {per}: {plan.trained_parameters:,}; "
        f"kept parameters {per}: at most {plan.most_kept_parameters:,}"
    )
    print_evaluation(plan)
    pending = "pending" in (task["state"] for task in plan.tasks)
    if pending:
        out.print(time_line(plan.time), markup=False)
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in plan.memory_per_worker_bytes.items())
    out.print(f"estimated memory per worker: {sum(plan.memory_per_worker_bytes.values()) / GIB:.2f} GiB ({parts})")
    if plan.rounding:
        out.print(f"rounding: {plan.rounding}", markup=False)
    for note in plan.notes:
        out.print(f"note: {note}", markup=False)
    out.print("will write:" if pending else "all tasks are done: nothing is left to run")
    for line in plan.writes if pending else ():
        out.print(f"  {line}", markup=False)


def plan_table(plan: "Plan") -> Table:
    """A row per task, and one of all of them if they are trained at once. Replayed rows are those of earlier tasks."""
    sizes, replays = ("train", "validation", "test"), any(plan.replayed)
    table = Table("task", "state", title="Tasks", title_justify="left")
    for column in ("labels", "train", *["replayed"] * replays, "validation", "test", "steps"):
        table.add_column(column, justify="right")
    for task, replayed, steps in zip(plan.tasks, plan.replayed, plan.steps, strict=True):
        labels = f"{len(task['labels']):,}" if task["labels"] else "·"
        train, *rest = (f"{task['rows'][split]:,}" for split in sizes)
        also, taken = [f"{replayed:,}"] * replays, "·" if plan.joint else f"{steps:,}"
        table.add_row(escape(task["name"]), task["state"], labels, train, *also, *rest, taken)
    if plan.joint:
        sums = (f"{sum(task['rows'][split] for task in plan.tasks):,}" for split in sizes)
        table.add_row(AT_ONCE, plan.tasks[-1]["state"], "·", *sums, f"{plan.steps[-1]:,}")
    return table


def layer_lines(widths: Mapping[str, int]) -> list[str]:
    """A line per adapted layer, or per kind of many, with the width of its output."""
    rows = ALL.rows(widths).items()
    return [f"{row} (width {', '.join(map(str, sorted({widths[each] for each in layers})))})" for row, layers in rows]


def time_line(time: "Reckoned | None") -> str:
    """How long what is left of a run may take, and what that costs."""
    if time is None:
        return (
            "time: not known, since no run of the team in this store has trained on this base by this method on such "
            "devices; after its first task `orthoplex status` says how much is left"
        )
    runs = ", ".join(time.runs[:3]) + (", …" if len(time.runs) > 3 else "")
    between = f"{duration(time.least_s)} to {duration(time.most_s)}"
    return (
        f"time: about {duration(time.seconds)} of training and evaluation ({between}), as {time.tasks} earlier tasks "
        f"took per row ({runs}){bill(time.gpu_hours, time.money, time.currency)}"
    )


def bill(gpu_hours: float, money: float | None, currency: str | None) -> str:
    """GPU-hours and their price, behind a time; without GPUs, that there is none to pay if a price is known."""
    if not gpu_hours:
        return "; no GPUs, so `cost` counts nothing" if currency else ""
    priced = "" if money is None else f", {money:,.2f} {currency}"
    return f"; {gpu_hours:,.2f} GPU-hours{priced}"


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
