"""The result of a sweep for people and programs: tables, a picture of the front, a configuration to run, JSON.

The files stand in the store, `t/<team>/.sweeps/<name>/v/<uuid>/`, named with their digests in the log's `choice` entry,
and in a folder of the machine that ran the sweep.
"""

import io
import json
import tempfile
import textwrap
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import JsonValue

from cluster.schema import NEW
from cluster.storage import FileRecord, Store, download_files, upload_contents
from cluster.storage.disk import writing
from orchestrator.log.chain import Log
from orchestrator.sweeps.choice import Choice, Judged, choose, judged, unmet
from orchestrator.sweeps.config import ChoiceConfig, SweepConfig
from orchestrator.sweeps.events import Chosen, Row, StoredFile, TrialStatus
from orchestrator.sweeps.space import short
from orchestrator.sweeps.sweep_state import SweepState, SweepStatus, SweepTrial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

RECOMMENDED, PICTURE, TRIALS = "recommended.yaml", "front.png", "trials.json"
LEAST_FOR_IMPORTANCE = 4  # finished trials
IMPORTS = ("matplotlib.backends.backend_agg", "optuna.importance", "sklearn.ensemble")  # of a conclusion: seconds


def importances(config: SweepConfig, trials: Sequence[SweepTrial]) -> dict[str, dict[str, float]]:
    """How much of the variance of each objective a searched key explains, by fANOVA (Hutter et al., ICML 2014) over the
    finished trials; shares that sum to 1. Keys under conditions are left out. Empty below LEAST_FOR_IMPORTANCE trials,
    and for an objective that does not vary."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    from orchestrator.sweeps.searcher import OBJECTIVES, study_of

    finished = [trial for trial, _ in judged(trials)]
    if len(finished) < LEAST_FOR_IMPORTANCE:
        return {}
    study, found = study_of(config, finished), {}
    for index, objective in enumerate(OBJECTIVES):
        values = {trial.values[index] for trial in study.trials}
        keys = [key for key, parameter in config.search.space.items() if not parameter.when and _varies(key, finished)]
        if len(values) > 1 and keys:
            found[objective] = get_param_importances(
                study, evaluator=FanovaImportanceEvaluator(seed=0), params=keys, target=_nth(index)
            )
    return found


def _nth(index: int) -> "Callable[[FrozenTrial], float]":
    return lambda trial: trial.values[index]


def _varies(key: str, trials: Sequence[SweepTrial]) -> bool:
    return len({repr(trial.values.get(key)) for trial in trials}) > 1


def recommended_yaml(config: SweepConfig, choice: Choice, trials: Sequence[SweepTrial]) -> str:
    """The recommended configuration, to be run unchanged: the sweep's `run` with that trial's values, all its tasks."""
    trial = next(each for each in trials if each.number == choice.recommended)
    content = config.with_name(f"{config.name}-best", trial.values).model_dump(mode="json", context=NEW)
    values = "".join(f"#   {key}: {trial.values[key]}\n" for key in config.search.space if key in trial.values)
    return (
        f"# Recommended by the sweep {config.run.team}/{config.name}: trial {trial.number}, {choice.reason}.\n"
        f"# What was searched:\n{values}"
        f"# The {config.length} task(s) of the trial are trained already: with `--set name={trial.run}` the run goes "
        "on from them.\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    )


def picture(config: SweepConfig, trials: Sequence[SweepTrial], choice: Choice) -> bytes:
    """PNG of `drawn`. Above stand the sweep, what was searched and how it was chosen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = drawn(config, trials, choice)
    FigureCanvasAgg(figure)
    figure.suptitle(title_of(config, trials), fontsize=11)
    figure.axes[0].set_title(settings_of(config), fontsize=7, loc="left")
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    return data.getvalue()


def drawn(config: SweepConfig, trials: Sequence[SweepTrial], choice: Choice) -> "Figure":
    """AA against active parameters, BWT as colour, the front as a line. Finished trials are dots, with a red edge if
    they break a bound of `choice`; those that stopped earlier are crosses at what they measured last."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.6), layout="constrained")
    axes = figure.subplots()
    draw_stopped(axes, trials)
    draw_finished(figure, axes, judged(trials), config.choice)
    draw_choice(axes, judged(trials), choice, config.choice)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    axes.set_xlabel("active adapter parameters, thousands")
    axes.set_ylabel("AA on the validation splits, points")
    axes.grid(alpha=0.3)
    return figure


def title_of(config: SweepConfig, trials: Sequence[SweepTrial]) -> str:
    """The sweep, and how its trials ended."""
    counts = counts_of([trial.status for trial in trials])
    return f"{config.run.team}/{config.name}: {counts or 'no trial has ended'}"


def counts_of(ends: Sequence[str | None]) -> str:
    """How many trials ended in which way."""
    return ", ".join(f"{n} {status}" for status in ("finished", "stopped", "failed") if (n := ends.count(status)))


def settings_of(config: SweepConfig) -> str:
    """What every trial is, what was searched, and the rule of the choice, in a few lines."""
    rule = config.choice.model_dump(mode="json", exclude_none=True)
    lines = (
        f"{config.length} tasks on {config.run.model.name}, method {config.run.adapter.method}",
        "searched: " + "; ".join(f"{short(key)} {each.shown()}" for key, each in config.search.space.items()),
        "chosen by: " + ", ".join(f"{key} {value}" for key, value in rule.items()),
    )
    return "\n".join(line for each in lines for line in textwrap.wrap(each, 120))


def place(row: Row) -> tuple[float, float]:
    """The place of a row in the picture: thousands of parameters, and AA in points."""
    return row.parameters / 1e3, 100 * row.aa


def draw_stopped(axes: "Axes", trials: Sequence[SweepTrial]) -> None:
    """A cross per trial that did not finish but measured something, with its number and the tasks it had done."""
    stopped = [(trial.number, trial.last) for trial in trials if trial.status != "finished" and trial.last]
    for number, row in stopped:
        axes.annotate(f"{number} ({row.tasks})", place(row), xytext=(6, -9), textcoords="offset points", fontsize=7)
    if stopped:
        x, y = zip(*(place(row) for _, row in stopped), strict=True)
        axes.scatter(x, y, c="grey", marker="x", s=40, label="not finished (after so many tasks)")


def draw_finished(figure: "Figure", axes: "Axes", finished: Sequence[Judged], rule: ChoiceConfig) -> None:
    """A dot per finished trial, with its number; a red edge if it breaks a bound."""
    if not finished:
        return
    x, y = zip(*(place(row) for _, row in finished), strict=True)
    edges = ["crimson" if unmet(row, rule) else "none" for _, row in finished]
    colours = [100 * (row.bwt or 0.0) for _, row in finished]
    dots = axes.scatter(x, y, c=colours, cmap="viridis", s=60, zorder=3, edgecolors=edges, linewidths=1.5)
    figure.colorbar(dots, label="BWT, points")
    for trial, row in finished:
        axes.annotate(str(trial.number), place(row), xytext=(6, 4), textcoords="offset points", fontsize=9)
    if broken := list(dict.fromkeys(key for _, row in finished for key in unmet(row, rule))):
        axes.scatter([], [], facecolors="white", edgecolors="crimson", s=60, label=f"breaks {' or '.join(broken)}")


def draw_choice(axes: "Axes", finished: Sequence[Judged], choice: Choice, rule: ChoiceConfig) -> None:
    """The front, a ring around the recommended trial, and the bound on parameters."""
    places = {trial.number: place(row) for trial, row in finished}
    if front := [places[number] for number in choice.pareto]:
        axes.plot(*zip(*front, strict=True), color="grey", linewidth=1, label="Pareto front")
    if choice.recommended is not None:
        axes.scatter(
            *places[choice.recommended], s=220, facecolors="none", edgecolors="black", linewidths=2,
            label=f"recommended: trial {choice.recommended}",
        )  # fmt: skip
    if rule.max_parameters is not None:
        bound = f"choice.max_parameters {rule.max_parameters:,}"
        axes.axvline(rule.max_parameters / 1e3, color="crimson", linestyle="--", linewidth=1, label=bound)


def as_json(config: SweepConfig, state: SweepState, folder: Path) -> dict[str, JsonValue]:
    """The output of `sweep --json`. A trial that did not end, or that the budget cut off, counts as stopped."""
    choice = state.choice or Chosen(pareto=())
    return {
        "name": config.name,
        "team": config.run.team,
        "state": state.status,
        "trials": [trial_json(trial, state.status) for trial in state.trials],
        "pareto": list(choice.pareto),
        "recommended": choice.recommended,
        "reason": choice.reason if state.choice else None,
        "recommended_config": None if choice.recommended is None else str(folder / RECOMMENDED),
        "importance": {objective: dict(shares) for objective, shares in choice.importance.items()},
        "decisions": [dict(each.shown()) for each in state.decisions],
        "picture": str(folder / PICTURE) if state.choice else None,
    }


def how_it_stands(trial: SweepTrial, sweep: SweepStatus) -> tuple[TrialStatus, str | None]:
    """A trial's status and the reason. A trial that did not end counts as stopped if the sweep is not running."""
    if trial.status == "running" and sweep != "running":
        return "stopped", "the sweep ended before it; run the sweep again to go on with it"
    return trial.status, trial.reason


def trial_json(trial: SweepTrial, sweep: SweepStatus) -> dict[str, JsonValue]:
    """One trial; its last row's figures beside its state."""
    status, reason = how_it_stands(trial, sweep)
    row = trial.last.model_dump() if trial.last else {}
    return {
        "number": trial.number, "run": trial.run, "status": status, "reason": reason, "values": dict(trial.values),
        **row, "rows": [row.model_dump() for row in trial.rows],
    }  # fmt: skip


def conclude(config: SweepConfig, state: SweepState) -> tuple[Chosen, dict[str, bytes]]:
    """The choice, without the place of its files, and the contents of these files by name."""
    choice = choose(state.trials, config.choice)
    files = {
        PICTURE: picture(config, state.trials, choice),
        TRIALS: json.dumps([trial_json(t, "finished") for t in state.trials], indent=1, allow_nan=False).encode(),
    }
    if choice.recommended is not None:
        files[RECOMMENDED] = recommended_yaml(config, choice, state.trials).encode()
    decision = choice.decision(f"sweep {config.name}", state.trials, config.choice)
    chosen = Chosen(
        pareto=choice.pareto, recommended=choice.recommended, reason=choice.reason,
        importance=importances(config, state.trials),
    )  # fmt: skip
    return chosen.with_decisions([decision]), files


def publish(store: Store, log: Log, chosen: Chosen, files: Mapping[str, bytes]) -> Chosen:
    """Stores the files under a fresh prefix. Returns the choice with that prefix and the files' digests."""
    prefix = f"{log.root}/v/{uuid.uuid4().hex}"
    records = upload_contents(store, prefix, files)
    placed = tuple(StoredFile(path=record.path, size=record.size, sha256=record.sha256) for record in records)
    return chosen.model_copy(update={"prefix": prefix, "files": placed})


def fetch(store: Store, choice: Chosen, folder: Path) -> None:
    """Writes the files of a `choice` into the folder and checks every digest. Files of an earlier choice are removed.

    Raises:
        IntegrityError: a file differs from its digest. StoreError: the disk refuses; what was there before stays.
    """
    with writing(f"the sweep's result in {folder}", "choose another --output"):
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(store, choice, folder)


def _fetch(store: Store, choice: Chosen, folder: Path) -> None:
    records = [FileRecord(file.path, file.size, file.sha256) for file in choice.files]
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder, ignore_cleanup_errors=True) as new:
        download_files(store, choice.prefix, records, Path(new))
        for name in (RECOMMENDED, PICTURE, TRIALS):
            (folder / name).unlink(missing_ok=True)
        for record in records:
            (Path(new) / record.path).replace(folder / record.path)


def result_folder(config: SweepConfig) -> Path:
    """Where a sweep's result is put if nobody says otherwise."""
    return Path(".orthoplex/sweeps") / config.run.team / config.name
