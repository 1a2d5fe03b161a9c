"""Scores in a model card: the Hub's `model-index`, its `.eval_results`, and a table for people."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from trainers.data.generative.config import OF_LOSS

EVAL_RESULTS = ".eval_results/orthoplex.yaml"
HUB_NAMES = {"macro_f1": ("f1", "macro F1")}  # metrics that the Hub calls otherwise
OF_STREAM = {
    "aa": "average accuracy", "bwt": "backward transfer", "forgetting": "forgetting", "fwt": "forward transfer",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TaskFigures:
    """A task's scores on its test rows. `metrics` has the primary one first, `interval` its 95% interval. `data` is
    what its rows are from: a dataset of the Hub if `hub`, with `config` and `split`; else a kind of source. `floor` is
    what needs no model."""

    task: str
    classification: bool
    metrics: Mapping[str, float]
    interval: tuple[float, float] | None
    rows: int
    data: str
    fingerprint: str
    hub: bool = False
    config: str | None = None
    split: str | None = None
    floor: float | None = None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The scores of a version as its log has them: entry `seq`, of that time. `stream` has metrics over all tasks, as
    fractions, each with half its 95% interval."""

    reference: str
    seq: int
    time: str
    manifest_sha256: str
    tasks: Sequence[TaskFigures]
    stream: Mapping[str, tuple[float, float | None]]


def model_index(figures: Figures, pipeline: str) -> list[dict[str, object]]:
    """The `model-index` of a card's metadata; `pipeline` is that of tasks that generate."""
    return [{"name": figures.reference, "results": [result(each, pipeline) for each in figures.tasks]}]


def result(figures: TaskFigures, pipeline: str) -> dict[str, object]:
    """A task in it."""
    dataset: dict[str, object] = {"type": figures.data, "name": figures.data if figures.hub else figures.task}
    dataset |= {key: value for key in ("config", "split") if (value := getattr(figures, key))}
    dataset["args"] = {"rows": figures.rows, "sha256": figures.fingerprint}
    return {
        "task": {"type": "text-classification" if figures.classification else pipeline, "name": figures.task},
        "dataset": dataset,
        "metrics": [metric(name, value) for name, value in figures.metrics.items()],
    }


def metric(name: str, value: float) -> dict[str, object]:
    """A metric in it, by the Hub's name."""
    kind, shown = HUB_NAMES.get(name, (name, name))
    return {"type": kind, "name": shown, "value": round(value, 6)}


def eval_results(figures: Figures) -> list[dict[str, object]]:
    """The entries of `.eval_results`: one per task whose rows are from a dataset of the Hub, by its primary metric. The
    Hub knows no other datasets."""
    return [
        {
            "dataset": {"id": each.data, "task_id": each.config or "default"},
            "value": round(next(iter(each.metrics.values())), 6),
            "date": figures.time[:10],
            "notes": f"{next(iter(each.metrics))} on {each.rows} rows of split {each.split}; {figures.reference}",
        }
        for each in figures.tasks
        if each.hub
    ]


def table(figures: Figures) -> Iterator[str]:
    """The section of a card, as lines of Markdown."""
    yield from ("## Figures", "")
    yield (
        f"On the run's own test rows, measured before the export: {figures.reference}, entry {figures.seq} of its log, "
        f"{figures.time[:10]}, manifest sha256 {figures.manifest_sha256}. Intervals are those of other test rows, and "
        "say nothing of another seed."
    )
    yield from (
        "",
        "| task | metric | score | 95% interval | without a model | test rows |",
        "|---|---|--:|---|--:|--:|",
    )
    for each in figures.tasks:
        yield from rows(each)
    yield ""
    if over := [stream_told(name, *figures.stream[name]) for name in OF_STREAM if name in figures.stream]:
        yield from (f"Over all tasks: {', '.join(over)}.", "")


def rows(figures: TaskFigures) -> Iterator[str]:
    """A task's rows of the table; interval and floor stand beside its primary metric."""
    for place, (name, value) in enumerate(figures.metrics.items()):
        bounds, floor = (None, None) if place else (figures.interval, figures.floor)
        cells = [
            figures.task, HUB_NAMES.get(name, (name, name))[1], told(name, value),
            f"{told(name, bounds[0])} to {told(name, bounds[1])}" if bounds else "",
            "" if floor is None else told(name, floor), f"{figures.rows:,}",
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def told(name: str, value: float) -> str:
    """A score: a loss in nats per token (or as perplexity), others in points."""
    return f"{value:.3f}" if name in OF_LOSS else f"{100 * value:.1f}"


def stream_told(name: str, value: float, half: float | None) -> str:
    """A metric of the stream, in points."""
    return f"{OF_STREAM[name]} {100 * value:.1f}" + (f" ±{100 * half:.1f}" if half is not None else "") + " points"
