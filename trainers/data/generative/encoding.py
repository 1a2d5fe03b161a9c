"""The rows of a split as token ids, in arrays that processes share; large splits are tokenised once per machine.

Shape suffixes: N rows, T tokens of all rows.
"""

import dataclasses
import hashlib
import json
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np

from cluster.errors import ConfigError, DataError
from trainers.data.examples import Example, Renderer, RenderSettings, SourceRow, settings_for
from trainers.data.generative.cache import cached
from trainers.data.generative.config import GenerativeTask
from trainers.data.generative.preparing import FORM
from trainers.data.generative.refusals import Refused, TooLong, of_all
from trainers.data.tasks import SPLITS, TaskData

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_AT_ONCE = 1_000
PAGE = 4096  # bytes; an empty array cannot be mapped
CACHED_ROWS = 20_000  # of a split; smaller ones are tokenised anew each time
SHORT = 4096  # tokens, more than a template writes around two words
CONVERSATIONS = ("messages", "alpaca", "sharegpt")  # formats of rows that a chat template writes


@dataclass(frozen=True)
class Counts:
    """What a run's log tells of a split. `trained` of `tokens` are predicted; `cut` rows are cut by max_length; `ends`
    are the token ids that end answers. `dropped` rows were longer than max_length before their answer began;
    `shortened` ones lost the middle of their prompt."""

    rows: int
    tokens: int
    trained: int
    cut: int
    longest: int
    ends: tuple[int, ...] = ()
    dropped: int = 0
    shortened: int = 0

    def body(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, eq=False)
class Examples(Sequence[Example]):
    """N rows as a model sees them; row i has the tokens `ids_T[offsets[i]:offsets[i + 1]]`.

    ids_T, trained_T: (T,) int32 and bool. offsets: (N + 1,) int64. answers_T, answer_offsets: the same for the answers
    of an encoder-decoder. prompt_lengths, wholes, raws: (N,) int32, see `Example`. references: one JSON list per row,
    UTF-8. places: (N,) int64 index of the row in its split, from which dropped rows are missing.
    """

    ids_T: np.ndarray
    trained_T: np.ndarray
    offsets: np.ndarray
    answers_T: np.ndarray
    answer_offsets: np.ndarray
    prompt_lengths: np.ndarray
    wholes: np.ndarray
    raws: np.ndarray
    references: np.ndarray
    reference_offsets: np.ndarray
    places: np.ndarray
    counts: Counts = field(default=Counts(0, 0, 0, 0, 0))

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens per row, of an encoder-decoder the prompt's."""
        return np.diff(self.offsets)

    @property
    def trained(self) -> np.ndarray:
        """(N,) int64 trained tokens per row."""
        if len(self.answers_T):
            return np.diff(self.answer_offsets)
        sums = np.concatenate([[0], np.cumsum(self.trained_T, dtype=np.int64)])
        return sums[self.offsets[1:]] - sums[self.offsets[:-1]]

    @classmethod
    def joined(cls, parts: Sequence[tuple["Examples", np.ndarray]]) -> "Examples":
        """These rows of each of the parts, one after the other, to be trained on: `counts` and `places` are empty."""
        flat = {
            name: joined_rows([(getattr(each, name), getattr(each, offsets), rows) for each, rows in parts])
            for name, offsets in RAGGED.items()
        }
        plain = {name: np.concatenate([getattr(each, name)[rows] for each, rows in parts]) for name in PER_ROW}
        arrays = {name: values for name, (values, _) in flat.items()}
        offsets = {offsets: flat[name][1] for name, offsets in RAGGED.items()}
        return cls(**arrays, **offsets, **plain, places=np.empty(0, np.int64), counts=Counts(0, 0, 0, 0, 0))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: SupportsIndex) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        row, answer = slice(*self.offsets[i : i + 2]), slice(*self.answer_offsets[i : i + 2])
        told = bytes(self.references[slice(*self.reference_offsets[i : i + 2])])
        return Example(
            self.ids_T[row], self.trained_T[row], self.answers_T[answer], int(self.prompt_lengths[i]),
            tuple(json.loads(told)), int(self.wholes[i]), int(self.raws[i]),
        )  # fmt: skip


ARRAYS = tuple(each.name for each in dataclasses.fields(Examples) if each.name != "counts")
RAGGED = {  # arrays of all rows together, each with that of where its rows begin
    "ids_T": "offsets", "trained_T": "offsets", "answers_T": "answer_offsets", "references": "reference_offsets",
}  # fmt: skip
PER_ROW = ("prompt_lengths", "wholes", "raws")


def joined_rows(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of unequal length from several arrays as one: its values, and (N + 1,) where each row begins, and the end.

    Args:
        parts: per array its values, its (M + 1,) offsets, and the indices of the rows that are taken.
    """
    found = [flat[offsets[i] : offsets[i + 1]] for flat, offsets, rows in parts for i in rows.tolist()]
    lengths = np.concatenate([np.diff(offsets)[rows] for _, offsets, rows in parts])
    return np.concatenate([parts[0][0][:0], *found]), np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


class Gathering:
    """Examples on their way into arrays."""

    def __init__(self) -> None:
        self.ids, self.answers = array("i"), array("i")
        self.trained, self.references = bytearray(), bytearray()
        self.lengths, self.answer_lengths, self.reference_lengths = array("q"), array("q"), array("q")
        self.prompts, self.wholes, self.raws, self.places = array("i"), array("i"), array("i"), array("q")
        self.ends: Counter[int] = Counter()
        self.cut = self.dropped = self.shortened = 0

    def add(self, made: Example, place: int) -> None:
        """Takes the example of the row at a place."""
        told = json.dumps(made.references).encode()
        self.ids.frombytes(made.ids.tobytes())
        self.trained += made.trained.tobytes()
        self.answers.frombytes(made.answer.tobytes())
        self.references += told
        self.lengths.append(len(made.ids))
        self.answer_lengths.append(len(made.answer))
        self.reference_lengths.append(len(told))
        self.prompts.append(made.prompt_length)
        self.wholes.append(made.whole)
        self.raws.append(made.raw)
        self.places.append(place)
        self.cut += made.cut
        self.shortened += made.shortened

    def ended(self, made: Example, special: frozenset[int]) -> None:
        """Notes which special token ends the answer of a row that is not cut."""
        end = None if made.cut else end_of(made, special)
        if end is not None:
            self.ends[end] += 1

    def done(self) -> Examples:
        """The arrays."""
        trained = np.frombuffer(self.trained, bool)
        ids, answers = np.frombuffer(self.ids, np.int32), np.frombuffer(self.answers, np.int32)
        rows = len(self.lengths)
        predicted = int(trained.sum()) + len(answers)
        counts = Counts(
            rows,
            len(ids) + len(answers),
            predicted,
            self.cut,
            max(self.wholes, default=0),
            tuple(sorted(self.ends)),
            self.dropped,
            self.shortened,
        )
        return Examples(
            ids, trained, starts(self.lengths), answers, starts(self.answer_lengths),
            np.frombuffer(self.prompts, np.int32), np.frombuffer(self.wholes, np.int32),
            np.frombuffer(self.raws, np.int32), np.frombuffer(self.references, np.uint8),
            starts(self.reference_lengths), np.frombuffer(self.places, np.int64), counts,
        )  # fmt: skip


def special_ids(tokenizer: Any) -> frozenset[int]:
    """The tokens of a tokenizer that may end an answer."""
    return frozenset(tokenizer.all_special_ids) | frozenset(getattr(tokenizer, "added_tokens_decoder", {}))


def end_of(made: Example, special: frozenset[int]) -> int | None:
    """The last special token of an answer; what a template writes behind it are a few more."""
    tail = made.answer if len(made.answer) else made.ids[made.prompt_length :]
    return next((int(token) for token in reversed(tail[-4:]) if int(token) in special), None)


def turn_end(task: GenerativeTask, tokenizer: Any) -> int | None:
    """The special token that a task's chat template writes after a turn of the assistant; None if its rows are no
    conversations, or if its template is not there, has no such token, or cannot write a short conversation."""
    if task.form not in CONVERSATIONS:
        return None
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = SourceRow("", 1, json.dumps({"messages": turns}))
    try:
        settings = settings_for(task, tokenizer, 0, vocabulary=None)
    except ConfigError:
        return None
    (made,) = Renderer(tokenizer, dataclasses.replace(settings, max_length=SHORT)).render([row])
    return end_of(made, special_ids(tokenizer)) if isinstance(made, Example) else None


def starts(lengths: "array[int]") -> np.ndarray:
    """(N + 1,) where rows of these lengths begin, and the end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.frombuffer(lengths, np.int64))])


def encode_task(task: GenerativeTask, data: TaskData, tokenizer: Any, settings: RenderSettings) -> dict[str, Examples]:
    """Every split of a prepared task as examples.

    Raises:
        DataError: rows are refused, or too many answers are cut; see `encode`. What is said of rows that are too long
            holds for all splits.
    """
    made, long = dict[str, Examples](), list[TooLong]()
    for key in SPLITS:
        try:
            made[key] = encode_split(task, data, key, tokenizer, settings)
        except TooLong as error:
            long.append(error)
    if long:
        raise of_all(long)
    return made


def encode_split(task: GenerativeTask, data: TaskData, key: str, tokenizer: Any, settings: RenderSettings) -> Examples:
    """One split, from the cache if it is large and was tokenised before. A tokenizer that is written in Python cannot
    be told from others, so what it makes is not kept."""
    rows = getattr(data, key)
    if len(rows) < CACHED_ROWS or not hasattr(tokenizer, "backend_tokenizer"):
        return encode(task, rows, tokenizer, settings)
    told = [
        FORM,
        ARRAYS,
        data.fingerprint,
        key,
        dataclasses.asdict(settings),
        task.form,
        task.max_cut,
        task.too_long,
        tokenizer_digest(tokenizer),
    ]
    name = f"t{hashlib.sha256(json.dumps(told).encode()).hexdigest()}"
    return load(cached(name, lambda staging: save(encode(task, rows, tokenizer, settings), staging)))


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256, hexadecimal, of all that a fast tokenizer does."""
    special = json.dumps(tokenizer.special_tokens_map, default=str, sort_keys=True)
    return hashlib.sha256((tokenizer.backend_tokenizer.to_str() + special).encode()).hexdigest()


def encode(task: GenerativeTask, rows: "Dataset", tokenizer: Any, settings: RenderSettings) -> Examples:
    """Rows as examples.

    Raises:
        DataError: rows are refused: the message is of the first one, `evidence` counts them by kind. Or `max_length`
            cuts a larger share of the answers than the task's `max_cut`.
    """
    held, refused = Gathering(), Counter[str]()
    first: Refused | None = None
    needed = 0
    special = special_ids(tokenizer)
    renderer, place = Renderer(tokenizer, settings), -1
    for made in (each for batch in source_rows(rows) for each in renderer.render(batch)):
        place += 1
        if isinstance(made, Example):
            held.add(made, place)
            held.ended(made, special)
        elif made.kind in ("answer_cut", "prompt_cut") and task.too_long == "drop":
            held.dropped += 1
        else:
            first = first or made
            refused[made.kind] += 1
            needed = max(needed, made.needed if isinstance(made, TooLong) else 0)
    if first or not held.places:
        raise all_refused(first or nothing_left(task, len(rows), settings), refused, len(rows), needed)
    found = held.done()
    refuse_cuts(task, rows, found, settings)
    return found


def nothing_left(task: GenerativeTask, rows: int, settings: RenderSettings) -> Refused:
    """The error for a split whose rows are all dropped."""
    found = f"all {rows} rows of a split are longer than max_length {settings.max_length} before their answers begin"
    return Refused(f"task {task.name}: {found}; raise the task's max_length, or set too_long: cut", "answer_cut")


def source_rows(rows: "Dataset") -> Iterator[list[SourceRow]]:
    """The rows in lists of ROWS_AT_ONCE."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        yield [SourceRow(*each) for each in zip(part["where"], part["number"], part["row"], strict=True)]


def all_refused(first: Refused, refused: Counter[str], rows: int, needed: int) -> Refused:
    """The first refusal, with how many there are; if it is of a row that is too long, with what the longest needs."""
    total = refused.total()
    more = "" if total < 2 else f" ({total} of {rows} rows are refused: {counted(refused)})"
    error = (
        TooLong(first.found + more, first.kind, needed)
        if isinstance(first, TooLong)
        else Refused(f"{first}{more}", first.kind)
    )
    error.evidence = {"refused": dict(refused), "rows": rows}
    return error


def counted(refused: Counter[str]) -> str:
    """Kinds and how often each."""
    return ", ".join(f"{kind.replace('_', ' ')} {number}" for kind, number in refused.most_common())


def refuse_cuts(task: GenerativeTask, rows: "Dataset", found: Examples, settings: RenderSettings) -> None:
    """Raises Refused if `max_length` cuts too many answers; plain text has none."""
    cut = found.counts.cut
    if task.form == "text" or cut <= task.max_cut * len(found):
        return
    longer = np.maximum(found.lengths, np.diff(found.answer_offsets)) < found.wholes
    place = int(np.flatnonzero(longer)[0])
    row = rows[int(found.places[place])]
    error = TooLong(
        f"task {task.name}: {row['where']} row {row['number']}: max_length {settings.max_length} cuts its "
        f"{found.wholes[place]} tokens, and {cut} of {len(found)} rows are cut, more than the share max_cut "
        f"{task.max_cut:g}",
        "answer_cut", int(found.raws.max()), math.ceil(1000 * cut / len(found)) / 1000,
    )  # fmt: skip
    error.evidence = {"refused": {"answer_cut": cut}, "rows": len(found)}
    raise error


# ---------------------------------------------------------------- the cache


def save(examples: Examples, folder: Path) -> None:
    """Writes the arrays to a folder."""
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", getattr(examples, name))
    (folder / "counts.json").write_text(json.dumps(examples.counts.body()), "utf-8")


def load(folder: Path) -> Examples:
    """The arrays of a folder, mapped from its files."""
    told = json.loads((folder / "counts.json").read_text("utf-8"))
    paths = {name: folder / f"{name}.npy" for name in ARRAYS}
    try:
        arrays = {
            name: np.load(path, mmap_mode="r" if path.stat().st_size > PAGE else None) for name, path in paths.items()
        }
    except (OSError, ValueError) as error:
        raise DataError(f"data cache {str(folder)!r} cannot be read ({error}); remove that folder") from None
    return Examples(**arrays, counts=Counts(**{**told, "ends": tuple(told["ends"])}))
