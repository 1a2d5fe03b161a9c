"""`orthoplex predict` and `orthoplex eval`: what was learned, asked and scored."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cluster.errors import ConfigError, Interrupted
from cluster.temporary import temporary
from orchestrator.cli import completion
from orchestrator.cli.common import (
    DEFAULT_STORE,
    AsJson,
    Model,
    StoreUri,
    echo,
    only_our_output,
    print_json,
    tell,
    tell_of_skipped,
)

if TYPE_CHECKING:
    from orchestrator.delivery.predicting import Asking, Done, Predicting, Told
    from orchestrator.delivery.predictor import Predictor
    from orchestrator.delivery.repertoire import Repertoire

TABLES = ".jsonl, .csv, .tsv, .parquet (also .gz), a pattern, a folder, s3://"
Form = Literal["text", "json", "jsonl", "csv", "parquet"]
Asked = Annotated[
    str,
    typer.Argument(
        metavar="ADAPTER", help="team/run@vN, or @ and an alias; a run: its newest", autocompletion=completion.adapters
    ),
]
TaskName = Annotated[str | None, typer.Option("--task", metavar="T", help="the task, if several are learned")]
Union = Annotated[bool, typer.Option("--union", help="choose from the labels of all tasks")]
Columns = Annotated[
    list[str], typer.Option("--columns", metavar="NAME=COLUMN", help="your column for the task's, as prompt=question")
]
TextColumn = Annotated[str | None, typer.Option("--text-column", metavar="COLUMN", help="the column of texts")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, metavar="N", help="texts per forward pass")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")]
MaxTokens = Annotated[int | None, typer.Option("--max-new-tokens", min=1, metavar="N", help="of an answer at most")]
TooLong = Annotated[
    Literal["refuse", "cut"] | None,
    typer.Option("--too-long", help="prompts beyond max_length: refuse, or cut the middle"),
]


def predict(
    reference: Asked,
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]", help="texts to answer here")] = None,
    *,
    inputs: Annotated[
        list[str],
        typer.Option("--input", metavar="FILE", help=f"{TABLES}, or - for lines of JSON on standard input"),
    ] = [],  # noqa: B006
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FILE", help=".jsonl, .csv or .parquet, s3://, or -; goes on if it was cut"),
    ] = None,
    task: TaskName = None,
    union: Union = False,
    text_column: TextColumn = None,
    columns: Columns = [],  # noqa: B006
    prefix: Annotated[str, typer.Option("--prefix", help="put before the names of the columns of answers")] = "",
    form: Annotated[
        Form | None, typer.Option("--format", help="of what is written; text or json on a terminal")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing output")] = False,
    store: StoreUri = DEFAULT_STORE,
    model: Model = None,
    batch_size: BatchSize = None,
    max_new_tokens: MaxTokens = None,
    too_long: TooLong = None,
    device: Device = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, metavar="N", help="processes that answer rows of files, on Ray")
    ] = 1,
    address: Annotated[
        str | None, typer.Option("--address", help="the Ray cluster of --workers; default $RAY_ADDRESS, or here")
    ] = None,
) -> None:
    """Answer new texts with an adapter. A label with its probability, or a generated text; from files to a file."""
    output = None if output == "-" else output
    check_usage(texts, inputs, output, form, spread=workers > 1 or address is not None)
    from orchestrator.delivery.predicting import Asking, check_columns

    knows = repertoire(reference, store)
    known = knows.asked(task, union=union)
    named = columns_named(columns, text=text_column)
    check_columns(known, named)
    asking = Asking(known=known, columns=named, prefix=prefix)
    asked = {"max_new_tokens": max_new_tokens, "too_long": too_long}
    how = {"model": model, "device": device, "batch_size": batch_size, **asked}
    if texts:
        print_answers(opened(knows, **how), asking, texts, as_json=form == "json")
        return
    with files_named(inputs) as paths:
        if output is None:
            print_rows(opened(knows, **how), asking, paths)
        else:
            run, options = how_answered(knows, how, workers, address), {**asked, "model": model}
            write_rows(run, asking, knows, paths, output=output, form=form, force=force, options=options)


def check_usage(
    texts: Sequence[str] | None, inputs: Sequence[str], output: str | None, form: Form | None, *, spread: bool
) -> None:
    """Raises ConfigError unless there are texts or files, and what is asked for fits them."""
    if bool(texts) == bool(inputs):
        raise ConfigError("predict: give TEXT, or files with --input; one of them")
    if texts and output:
        raise ConfigError(
            f"--output {str(output)!r}: is for rows of files; write texts to a file and name it with --input"
        )
    if spread and not output:
        raise ConfigError("--workers: several processes answer rows of files into a file; name it with --output")
    known = ("text", "json") if texts else ("jsonl", "csv", "parquet") if output else ("jsonl",)
    if form and form not in known:
        raise ConfigError(
            f"--format {form}: {'texts are shown' if texts else 'rows are written'} as {' or '.join(known)}"
        )


def columns_named(given: Sequence[str], **others: str | None) -> dict[str, str]:
    """NAME=COLUMN by name, and `others` that are given. Raises ConfigError if one is malformed."""
    named = {}
    for each in given:
        name, equals, column = each.partition("=")
        if not (name and equals and column):
            raise ConfigError(f"--columns {each!r}: write NAME=COLUMN, as in --columns prompt=question")
        named[name] = column
    return named | {name: column for name, column in others.items() if column}


def repertoire(reference: str, store: str) -> "Repertoire":
    """What the version can answer, from its log. Notes say what was left out, and which version a run's newest is."""
    from cluster.storage import open_store
    from orchestrator.delivery.repertoire import Repertoire, version_of
    from orchestrator.track.events import skipped

    version = version_of(open_store(store), reference)
    tell_of_skipped(version.track.label, skipped(version.entries))
    if "@" not in reference:
        tell(f"{reference}: its newest version, {version.reference}")
    return Repertoire(version)


def opened(knows: "Repertoire", **how: Any) -> "Callable[[], Predictor]":
    """The version in its base, which is loaded at the first call."""

    @cache
    def predictor() -> "Predictor":
        with only_our_output():
            from orchestrator.delivery.predictor import Predictor  # imports torch

            return Predictor(knows.version, say=tell, **how)

    return predictor


@contextmanager
def files_named(patterns: Sequence[str], option: str = "--input") -> Iterator[list[Path]]:
    """The files that are named. Standard input, as `-`, is one while the block lasts, and so are copies of objects."""
    from orchestrator.delivery.tables import found

    with temporary("predict") as folder:
        held = Path(folder) / "stdin.jsonl"
        if "-" in patterns:
            with held.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        yield found([str(held) if each == "-" else each for each in patterns], option, Path(folder))


def print_answers(
    predictor: "Callable[[], Predictor]", asking: "Asking", texts: Sequence[str], *, as_json: bool
) -> None:
    """Texts and their answers on the terminal."""
    from orchestrator.delivery.tables import line

    found = asking.of_texts(predictor(), texts)
    if as_json:
        typer.echo("".join(map(line, found)), nl=False)
        return
    from orchestrator.console.answering import print_answer

    for each in found:
        print_answer({key: each[key] for key in asking.names}, asking.generates)


def print_rows(predictor: "Callable[[], Predictor]", asking: "Asking", paths: Sequence[Path]) -> None:
    """The rows of files with their answers, as lines of JSON on standard output."""
    from orchestrator.delivery.predicting import answered
    from orchestrator.delivery.tables import line

    for row in answered(predictor, asking, paths):
        typer.echo(line(row), nl=False)


def how_answered(
    knows: "Repertoire", how: Mapping[str, Any], workers: int, address: str | None
) -> "Callable[[Predicting, Told], Done]":
    """What answers the rows of files: this process, or several on Ray."""
    if workers == 1 and address is None:
        predictor = opened(knows, **how)
        return lambda work, told: work.run(predictor, told)
    from orchestrator.delivery.spread import Opening, Spread

    if knows.version.state.not_compared:
        tell(knows.version.state.not_compared)
    opening = Opening(reference=knows.reference, store=knows.version.track.store.uri, how=how)
    spread = Spread(workers=workers, address=address, device=how["device"])
    return lambda work, told: spread.run(work, opening, told)


def write_rows(
    run: "Callable[[Predicting, Told], Done]",
    asking: "Asking",
    knows: "Repertoire",
    paths: Sequence[Path],
    *,
    output: str,
    form: str | None,
    force: bool,
    options: Mapping[str, str | int | None],
) -> None:
    """The rows of files with their answers, into a file."""
    from orchestrator.console.answering import Rate
    from orchestrator.delivery.parts import placed
    from orchestrator.delivery.predicting import Predicting
    from orchestrator.delivery.tables import form_to_write

    commit = knows.version.commit
    with temporary("output") as scratch:
        path, mirror = placed(output, Path(scratch))
        work = Predicting(
            asking=asking, reference=knows.reference, manifest_sha256=commit.manifest_sha256, inputs=paths, output=path,
            form=form_to_write(path, form, "--output"), mirror=mirror,
            options={key: value for key, value in options.items() if value},
        )  # fmt: skip
        work.check(replace=force)
        try:
            with Rate() as rate, only_our_output():
                done = run(work, rate.told)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; what is answered is kept in {output}.parts: the same command goes on"
            ) from None
    if done.unanswered:
        tell(f"{done.unanswered:,} rows have no text, or no answer that is a label: their label is null")
    went_on = f"; {done.before:,} of them were answered before" if done.before else ""
    typer.echo(f"wrote {output}: {done.rows:,} rows answered by {knows.reference}{went_on}")


def evaluate(
    reference: Asked,
    data: Annotated[list[str], typer.Option("--data", metavar="FILE", help=TABLES)],
    *,
    task: TaskName = None,
    union: Union = False,
    text_column: TextColumn = None,
    label_column: Annotated[
        str | None, typer.Option("--label-column", metavar="COLUMN", help="the column of right labels")
    ] = None,
    columns: Columns = [],  # noqa: B006
    worst: Annotated[int, typer.Option("--worst", min=0, metavar="N", help="badly answered rows to show")] = 5,
    recorded: Annotated[bool, typer.Option("--record", help="keep the score, for `orthoplex trend`")] = False,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="with --record: kept beside it")] = "",
    store: StoreUri = DEFAULT_STORE,
    model: Model = None,
    batch_size: BatchSize = None,
    max_new_tokens: MaxTokens = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Score an adapter on rows with right answers. Metrics with intervals, a floor, each label, the worst rows."""
    from orchestrator.delivery.predicting import check_columns

    knows = repertoire(reference, store)
    named = columns_named(columns, text=text_column, label=label_column)
    check_columns(knows.asked(task, union=union), named)
    if note and not recorded:
        raise ConfigError("--note: stands beside a score that is kept; give --record too")
    if recorded:
        from orchestrator.followed.recording import check_can_record

        check_can_record(knows.version.track, note)
    started = time.monotonic()
    with files_named(data, "--data") as paths:
        predictor = opened(knows, model=model, device=device, batch_size=batch_size, max_new_tokens=max_new_tokens)()
        from orchestrator.console.answering import Rate, print_evaluation

        with only_our_output(), Rate() as rate:
            from orchestrator.delivery.evaluating import evaluate_files

            made = evaluate_files(
                predictor, paths, task=task, union=union, columns=named, worst=worst, told=partial(rate.more, 0)
            )
        kept = {}
        if recorded:
            from orchestrator.followed.recording import digests_of, record

            entry = record(
                knows.version, made, asked=reference.partition("@")[2], files=digests_of(paths, data), note=note,
                settings={} if max_new_tokens is None else {"max_new_tokens": max_new_tokens},
                seconds=time.monotonic() - started,
            )  # fmt: skip
            kept = {"recorded": entry.seq}
    if as_json:
        print_json({**made.shown(), **kept})
        return
    print_evaluation(made)
    for seq in kept.values():
        echo(f"recorded (entry {seq}); next: orthoplex trend {knows.version.track.label}")
