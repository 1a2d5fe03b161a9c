"""The tables as Markdown: one per group of streams, then what tuning chose, and what is missing. In points."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from benchmarks.harness import markdown
from benchmarks.methods.bootstrap import Difference
from benchmarks.methods.figures import Row, rows
from benchmarks.methods.plan import ALL, Asked, Line, Plan, missing

COLUMNS = (
    "method", "AA", "worst order", "BWT", "LA", "FWT", "AA, union of labels", "kept", "of O-LoRA", "dimensions",
    "dead", "in training", "stored", "training", "GPU peak", "ours minus it",
)  # fmt: skip
NOT_MEASURED = "–"


def table(plan: Plan, group: str, lines: Mapping[str, Line]) -> str:
    """The table of a group of streams; columns without a figure are left out."""
    found = [row for row in rows(plan, group, lines) if row.cells or row.failed]
    if not found:
        return "No cell of this table was measured yet."
    body = [[*map(str, shown(row, plan))] for row in found]
    used = [column for column in range(len(COLUMNS)) if not column or any(row[column] != NOT_MEASURED for row in body)]
    return markdown([COLUMNS[column] for column in used], [[row[column] for column in used] for row in body])


def shown(row: Row, plan: Plan) -> list[str]:
    """The cells of one row."""
    figures, ours = row.figures, row.method == plan.ours
    aa = points(figures["aa"])
    return [
        name(row, ours),
        f"**{aa}**" if ours and row.cells else aa,
        f"{points(row.worst[0])} ({row.worst[1]})" if row.worst else NOT_MEASURED,
        signed(figures["bwt"]),
        points(figures["la"]),
        signed(figures["fwt"]),
        points(figures["aa_union"]),
        whole(figures["kept"]),
        share(row.share),
        share(figures["dimensions"]),
        share(figures["dead"]),
        whole(figures["trained"]),
        NOT_MEASURED if figures["stored_bytes"] is None else f"{figures['stored_bytes'] / 1e6:.1f} MB",
        NOT_MEASURED if figures["train_s"] is None else f"{figures['train_s']:.0f} s",
        NOT_MEASURED if figures["peak_gpu_bytes"] is None else f"{figures['peak_gpu_bytes'] / 2**20:.0f} MiB",
        difference(row.difference),
    ]


def name(row: Row, ours: bool) -> str:
    """The label, with a mark for one seed, for a bound, and for cells that are missing or failed."""
    label = f"**{row.label}**" if ours else row.label
    marks = ["¹"] * (row.one_seed and bool(row.cells)) + ["²"] * row.bound
    done = len(row.cells)
    notes = [f"{done} of {row.asked} cells"] * (done < row.asked) + [f"{len(row.failed)} failed"] * bool(row.failed)
    return label + "".join(marks) + (f" ({', '.join(notes)})" if notes else "")


def difference(found: Difference | None) -> str:
    """A difference of AA with its interval, bold if it excludes 0."""
    if found is None:
        return NOT_MEASURED
    text = f"{signed(found.value)} [{signed(found.low)}, {signed(found.high)}]"
    return f"**{text}**" if found.clear else text


def points(value: float | None) -> str:
    """A fraction in points."""
    return NOT_MEASURED if value is None else f"{100 * value:z.1f}"


def signed(value: float | None) -> str:
    """A difference of fractions in points."""
    return NOT_MEASURED if value is None else f"{100 * value:+z.1f}".replace("-", "−")


def share(value: float | None) -> str:
    """A share in percent."""
    return NOT_MEASURED if value is None else f"{value:.1%}"


def whole(value: float | None) -> str:
    """A number of parameters."""
    return NOT_MEASURED if value is None else f"{value:,.0f}"


LEGEND = """\
Points. Means over seeds and orders; *worst order* is the lowest mean over seeds. ¹ one seed. ² no rival: it knows the
task when it answers, or sees all tasks at once. *kept*: parameters that the stream keeps; *of O-LoRA*: as a share of
what O-LoRA keeps at rank 16 on query and value. *dimensions*: share that tasks kept of those that they began with;
*dead*: share of layers that a task left with none. *in training*: parameters in training in one task. *training*:
seconds of training, on a machine that other cells shared. *ours minus it*: difference of AA over the cells that both
have, with the 95% interval of the paired bootstrap over test rows, and over seeds if there are several; bold if it
excludes 0."""


def choices(plan: Plan, lines: Mapping[str, Line]) -> str:
    """What tuning tried and chose, newest choice per method."""
    newest = {line["method"]: line for line in lines.values() if "chosen" in line}
    body = [
        [plan.methods[method].label, values(line["chosen"]), "; ".join(tried(each) for each in line["tried"])]
        for method, line in newest.items()
        if method in plan.methods
    ]
    return markdown(["method", "chosen", "tried (validation AA)"], body) if body else "No method was tuned yet."


def tried(each: Mapping[str, object]) -> str:
    """One setting of a grid with its score."""
    score = each["validation_aa"]
    return f"{values(each['values'])}: {points(score) if isinstance(score, float) else 'failed'}"  # type: ignore[arg-type]


def values(found: Mapping[str, object]) -> str:
    """Tuned values in one cell."""
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in found.items()) or "as written"


def absent(plan: Plan, lines: Mapping[str, Line], asked: Asked = ALL) -> str:
    """What is missing, a line per method and reason, with the streams that lack the same seeds; empty if nothing is."""
    found = missing(plan, lines, asked)
    listed = [(cell.method, cell.stream, cell.seed, "not measured") for cell in found.ready]
    listed += [(*each, "waits for tuning") for each in found.waiting]
    listed += [(cell.method, cell.stream, cell.seed, f"cannot be run: {fault}") for cell, fault in found.faulty]
    listed += [
        (each["method"], each["stream"], each["seed"], f"failed: {each['error']}") for each in failed(plan, lines)
    ]
    seeds: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for method, stream, seed, why in listed:
        seeds[method, why, stream].append(seed)
    streams: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for (method, why, stream), numbers in seeds.items():
        streams[method, why, in_words(numbers)].append(stream)
    return "\n".join(
        f"- {method} on {', '.join(names)}, {numbers}: {why}" for (method, why, numbers), names in streams.items()
    )


def in_words(seeds: Sequence[int]) -> str:
    """Seeds of cells of one method on one stream, and how many settings there are if several share a seed."""
    different = sorted({*seeds})
    settings = f" ({len(seeds)} settings)" if len(different) < len(seeds) else ""
    return f"seed{'s' * (len(different) > 1)} {', '.join(map(str, different))}{settings}"


def failed(plan: Plan, lines: Mapping[str, Line]) -> Sequence[Line]:
    """The lines with an error that the plan still asks for."""
    return [line for group in plan.groups() for row in rows(plan, group, lines) for line in row.failed]
