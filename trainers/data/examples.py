"""One row as a model sees it: token ids, which of them are trained, and from where an answer is generated.

Nothing is guessed. Prompt and whole row are tokenised each on its own, and the first must be the beginning of the
second; if it is not, or if a row would train nothing, everything or no end, it is refused. Shape suffixes: S tokens of
a row, A tokens of an encoder-decoder's answer.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from cluster.errors import DataError
from trainers.data.generative.chat import Chat, find_template
from trainers.data.generative.config import GenerativeTask, TrainOn
from trainers.data.generative.refusals import Refused, TooLong
from trainers.data.generative.rows import RowFault, Turn, Values, before_answer

Ids = list[int]
Tokenize = Callable[[Sequence[str]], list[Ids]]


@dataclass(frozen=True)
class SourceRow:
    """A row in its plain form (`trainers.data.generative.rows`) as JSON; `number` counts the rows of `where` from 1."""

    where: str
    number: int
    content: str


@dataclass(frozen=True, eq=False)
class Example:
    """One row as a model sees it. S tokens.

    ids: (S,) int32 token ids, prompt and answer (for an encoder-decoder: the prompt alone).
    trained: (S,) bool, whether the token is predicted (loss on it); for an encoder-decoder all False.
    answer: (A,) int32, the decoder's tokens of an encoder-decoder; empty for a decoder.
    prompt_length: tokens from which an answer is generated (the prompt with its generation prompt).
    references: the texts that are right answers; empty if the row has none (plain text).
    whole: tokens of the row before `max_length` cut it, and raw: before its prompt lost its middle.
    shortened: whether the prompt has lost its middle.
    """

    ids: np.ndarray
    trained: np.ndarray
    answer: np.ndarray
    prompt_length: int
    references: tuple[str, ...]
    whole: int = 0
    raw: int = 0
    shortened: bool = False

    @property
    def cut(self) -> bool:
        """Whether `max_length` has cut the row, or an encoder-decoder's answer."""
        return self.whole > max(len(self.ids), len(self.answer))


@dataclass(frozen=True)
class RenderSettings:
    """How the rows of a task become tokens. `template` is the text of a chat template, None if there is none.

    `vocabulary` is how many tokens the model has embeddings for; None if that is not known. With `shorten`, a plain
    prompt of more than 3/4 of max_length tokens loses its middle, whatever the answer is. Of an encoder-decoder,
    prompt and answer may have max_length tokens each; with `shorten`, a longer prompt of any kind loses its middle.
    """

    task: str
    train_on: TrainOn
    max_length: int
    template: str | None = None
    system: str | None = None
    vocabulary: int | None = None
    encoder_decoder: bool = False
    shorten: bool = False


def settings_for(
    task: GenerativeTask, tokenizer: Any, max_length: int, *, vocabulary: int | None, encoder_decoder: bool = False
) -> RenderSettings:
    """The settings of a task; `max_length` is the model's, which the task's own overrides.

    Raises:
        ConfigError: `chat_template` is not there.
        DataError: an encoder-decoder is to be trained on plain text.
    """
    if encoder_decoder and (task.form == "text" or task.trained_on == "all"):
        raise DataError(
            f"task {task.name}: an encoder-decoder answers a prompt, and the task trains on all tokens; use a "
            "CAUSAL_LM, or rows of prompt and completion"
        )
    return RenderSettings(
        task=task.name,
        train_on=task.trained_on,
        max_length=task.max_length or max_length,
        template=find_template(task.name, task.chat_template, tokenizer),
        system=task.system,
        vocabulary=vocabulary,
        encoder_decoder=encoder_decoder,
        shorten=task.too_long == "cut",
    )


@dataclass(frozen=True)
class Draft:
    """The texts of a row that are to be tokenised, the whole one first.

    cuts: per trained part, the indices of the texts that end where it begins and where it ends; None is the row's end.
    asked: index of the text from which an answer is generated; None if that is the whole row.
    framed: whether the tokenizer adds its special tokens; a chat template writes them itself.
    """

    texts: list[str]
    cuts: list[tuple[int, int | None]] = field(default_factory=list)
    asked: int | None = None
    framed: bool = True
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Renderer:
    """Makes examples of rows with one tokenizer and one task's settings."""

    tokenizer: Any
    settings: RenderSettings

    def render(self, rows: Sequence[SourceRow]) -> list[Example | Refused]:
        """Each row as an example, or why it is refused. Rows are tokenised together."""
        drafts = [self.drafted(row) for row in rows]
        kept = [draft for draft in drafts if isinstance(draft, Draft)]
        found: dict[bool, list[Ids]] = {}
        for framed in (True, False):
            found[framed] = self.tokenized(
                [text for draft in kept if draft.framed is framed for text in draft.texts], framed
            )
        places = {True: 0, False: 0}
        made: list[Example | Refused] = []
        for row, draft in zip(rows, drafts, strict=True):
            if isinstance(draft, Refused):
                made.append(draft)
                continue
            start = places[draft.framed]
            places[draft.framed] = end = start + len(draft.texts)
            made.append(self.assembled(row, draft, found[draft.framed][start:end]))
        return made

    def tokenized(self, texts: Sequence[str], framed: bool) -> list[Ids]:
        """Token ids of texts, uncut."""
        if not texts:
            return []
        if self.backend is None:
            ids: list[Ids] = self.tokenizer(list(texts), add_special_tokens=framed, verbose=False)["input_ids"]
            return ids
        return [each.ids for each in self.backend.encode_batch_fast(list(texts), add_special_tokens=framed)]

    @cached_property
    def backend(self) -> Any:
        """The tokenizer's own core, which neither cuts nor pads; None if it is written in Python."""
        self.tokenizer(["a"], verbose=False)  # takes away the cuts and padding that its file may ask for
        return getattr(self.tokenizer, "backend_tokenizer", None)

    def refused(self, row: SourceRow, kind: str, found: str, fix: str) -> Refused:
        """A refusal with task, row, what was found and the fix."""
        return Refused(f"{self.place(row)}: {found}; {fix}", kind)

    def too_long(self, row: SourceRow, kind: str, found: str, needed: int) -> TooLong:
        """The refusal of a row that `max_length` leaves no answer, or of an encoder-decoder's prompt."""
        return TooLong(f"{self.place(row)}: {found}", kind, needed)

    def place(self, row: SourceRow) -> str:
        """Task and row, for messages."""
        return f"task {self.settings.task}: {row.where} row {row.number}"

    # ------------------------------------------------------------ texts

    def drafted(self, row: SourceRow) -> Draft | Refused:
        """The texts of a row."""
        values: Values = json.loads(row.content)
        try:
            if self.settings.encoder_decoder:
                return self.answered_draft(values)
            if "text" in values:
                return Draft([self.ended(values["text"])])
            if isinstance(values.get("prompt"), str):
                return self.pair_draft(values)
            return self.chat_draft(values)
        except RowFault as fault:
            return self.refused(row, fault.kind, fault.found, fault.fix)

    def ended(self, text: str) -> str:
        """The text with its end-of-text token."""
        end = self.tokenizer.eos_token or ""
        return text if text.endswith(end) else text + end

    def pair_draft(self, values: Values) -> Draft:
        """Prompt and completion, side by side."""
        whole = self.ended(values["prompt"] + values["completion"])
        return Draft([whole, values["prompt"]], [(1, None)], 1, references=references(values))

    def chat_draft(self, values: Values) -> Draft:
        """A conversation, and where its trained turns begin and end."""
        said = self.chat.render(values, self.settings.train_on)
        texts, cuts = [said.whole], []
        for begin, end in said.cuts:
            texts.append(begin)
            cuts.append((len(texts) - 1, None if end is None else len(texts)))
            texts += [] if end is None else [end]
        return Draft(texts, cuts, texts.index(said.asked, 1), framed=False, references=references(values))

    def answered_draft(self, values: Values) -> Draft:
        """What the encoder reads, and the decoder's answer."""
        if isinstance(values.get("prompt"), str):
            prompt = values["prompt"]
        else:
            turns = values.get("prompt") or before_answer(values["messages"])
            prompt = self.chat.write(self.chat.with_system(turns), values, asks=True)
        return Draft([prompt, self.ended(references(values)[0])], references=references(values))

    @cached_property
    def chat(self) -> Chat:
        """The tokenizer's way to write conversations."""
        return Chat(self.tokenizer, self.settings.template, self.settings.system)

    # ------------------------------------------------------------ tokens

    def assembled(self, row: SourceRow, draft: Draft, ids: list[Ids]) -> Example | Refused:
        """The example of a row whose texts have these token ids."""
        beginning, vocabulary = self.tokenizer.bos_token_id, self.settings.vocabulary
        if beginning is not None and ids[0][:2] == [beginning, beginning]:
            fix = "remove it from the prompt or the chat template; the tokenizer adds one"
            return self.refused(row, "two_beginnings", f"begins with {self.tokenizer.bos_token!r} twice", fix)
        if vocabulary is not None and (most := max(max(each, default=0) for each in ids)) >= vocabulary:
            return self.refused(
                row, "unknown_token", f"has token {most} ({self.tokenizer.convert_ids_to_tokens(most)!r}), and the "
                f"model knows {vocabulary} tokens", "use the model's own tokenizer, or a template without that token",
            )  # fmt: skip
        return self.answered(row, draft, ids) if self.settings.encoder_decoder else self.continued(row, draft, ids)

    def answered(self, row: SourceRow, draft: Draft, ids: list[Ids]) -> Example | Refused:
        """An encoder-decoder's example."""
        asked, answer, most = ids[0], once_ended(ids[1], self.tokenizer.eos_token_id), self.settings.max_length
        if not asked:
            return self.refused(row, "everything_trained", "its prompt is empty", "fill it, or remove the row")
        shortened = self.settings.shorten and len(asked) > most
        if len(asked) > most and not shortened:
            found = f"its prompt has {len(asked)} tokens, more than max_length {most}"
            return self.too_long(row, "prompt_cut", found, len(asked))
        asked = [*asked[: most // 2], *asked[len(asked) - (most - most // 2) :]] if shortened else asked
        asked_S, answer_A = np.array(asked, np.int32), np.array(answer[:most], np.int32)
        trained_S, whole, raw = (
            np.zeros(len(asked_S), bool),
            max(len(asked), len(answer)),
            max(len(ids[0]), len(answer)),
        )
        return Example(asked_S, trained_S, answer_A, len(asked_S), draft.references, whole, raw, shortened)

    def continued(self, row: SourceRow, draft: Draft, ids: list[Ids]) -> Example | Refused:
        """A decoder's example."""
        whole = ids[0]
        trained_S = np.full(len(whole), self.settings.train_on == "all")
        asked = len(whole)
        for begin, end in draft.cuts:
            start, stop = self.met(draft, ids, begin), len(whole)
            if end is not None:
                stop = len(ids[end]) if whole[: len(ids[end])] == ids[end] else -1
            if start is None or stop < 0:
                return self.no_prefix(row, draft, ids, begin if start is None else end or 0)
            trained_S[start:stop] = True
            asked = start if begin == draft.asked else asked
        return self.checked(row, draft, np.array(whole, np.int32), trained_S, asked)

    def met(self, draft: Draft, ids: list[Ids], begin: int) -> int | None:
        """Where the row's tokens go on after the prompt's; None if the prompt's are not its beginning.

        White space at the end of a plain prompt often is one token with what follows; it then is the answer's.
        """
        whole, prompt = ids[0], ids[begin]
        if draft.framed and prompt and prompt[-1] == self.tokenizer.eos_token_id != self.tokenizer.bos_token_id:
            prompt = prompt[:-1] if not draft.texts[begin].endswith(self.tokenizer.eos_token) else prompt
        shared = common(prompt, whole)
        if shared == len(prompt):
            return shared
        return shared if draft.framed and not self.tokenizer.decode(prompt[shared:]).strip() else None

    def no_prefix(self, row: SourceRow, draft: Draft, ids: list[Ids], index: int) -> Refused:
        """The refusal of a row whose beginning has other tokens than the row."""
        at = common(ids[index], ids[0])
        alone, within = (self.tokenizer.decode(each[max(0, at - 1) : at + 4]) for each in (ids[index], ids[0]))
        found = f"the prompt's tokens are not the first of the row's: {alone!r} alone, {within!r} within the row"
        fix = "end the prompt, or begin the completion, with white space"
        if not draft.framed:
            found = found.replace("the prompt's tokens", "the tokens of the first turns")
            fix = "set chat_template to one that writes a turn alike wherever it stands, or train_on: last_assistant"
        return self.refused(row, "prompt_no_prefix", found, fix)

    def checked(
        self, row: SourceRow, draft: Draft, ids_S: np.ndarray, trained_S: np.ndarray, asked: int
    ) -> Example | Refused:
        """The example, cut at `max_length`, unless it trains nothing or everything, or is cut before its answer."""
        most, only, whole, raw = self.settings.max_length, self.settings.train_on != "all", len(ids_S), len(ids_S)
        most_asked = most - most // 4
        shortened = self.settings.shorten and draft.framed and most_asked < asked < whole
        if shortened:
            gone = slice(most_asked // 2, asked - (most_asked - most_asked // 2))
            ids_S, trained_S, asked = np.delete(ids_S, gone), np.delete(trained_S, gone), most_asked
            whole = len(ids_S)
        if not trained_S.any():
            return self.refused(
                row, "nothing_trained", "no token would be trained", "fill the answer, or remove the row"
            )
        first = 1 if ids_S[0] == self.tokenizer.bos_token_id else 0
        if only and trained_S[first:].all():
            return self.refused(
                row, "everything_trained", "its prompt is empty, so every token would be trained",
                "fill it, or name format: text",
            )  # fmt: skip
        if only and not trained_S[:most].any():
            found = f"its prompt has {asked} tokens, so max_length {most} cuts its answer away"
            return self.too_long(row, "answer_cut", found, raw)
        return Example(
            ids_S[:most], trained_S[:most], np.zeros(0, np.int32), min(asked, most), draft.references, whole, raw,
            shortened,
        )  # fmt: skip


def render(row: SourceRow, tokenizer: Any, settings: RenderSettings) -> Example:
    """One row as an example.

    Raises:
        DataError: the row is refused. The message names task, row, what was found and the fix.
    """
    (made,) = Renderer(tokenizer, settings).render([row])
    if isinstance(made, Refused):
        raise made
    return made


def references(values: Values) -> tuple[str, ...]:
    """The texts that are right answers, the one that is trained on first."""
    if isinstance(values.get("completion"), str):
        return tuple(dict.fromkeys([values["completion"], *values.get("references", [])]))
    turns: Sequence[Turn] = values.get("completion") or values.get("messages") or []
    said = [turn["content"] for turn in turns if turn["role"] == "assistant"]
    return (said[-1],) if said else ()


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens are equal."""
    if list(right[: len(left)]) == list(left):
        return len(left)
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def once_ended(ids: Ids, end: int) -> Ids:
    """The ids without all but one end-of-text token at their end: tokenizers of encoder-decoders add their own."""
    kept = len(ids)
    while kept > 1 and ids[kept - 1] == ids[kept - 2] == end:
        kept -= 1
    return ids[:kept]
