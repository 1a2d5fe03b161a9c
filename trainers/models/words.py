"""How a tokenizer writes words: what it puts around a text, where an answer begins, which words it cannot tell apart.

Pure functions of a tokenizer. Ids are lists of token ids.
"""

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any
from unicodedata import category, normalize

from cluster.errors import ConfigError
from trainers.data.prompts import Prompt

Ids = list[int]
PROBES = ("a", "A", "0", ".", "the")  # one of them is a token to any tokenizer
RARE = "\u2603\ua66e\U00013000"  # a tokenizer that can write these can write any text
STAND_INS = ("Answer:", *PROBES)  # one is the text before an answer if a prompt does not say what ends it
NAMED = ("unk", "pad", "bos", "eos", "cls", "sep", "mask")  # special tokens that say nothing as a word


@dataclass(frozen=True)
class Frame:
    """The special tokens that a tokenizer puts before and after every text."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class Seam:
    """Where prompt and answer meet: `dropped` tokens go from the end of a prompt to the beginning of its answer."""

    dropped: int
    answers: list[Ids]


def encoded(tokenizer: Any, texts: str | list[str], **how: Any) -> Any:
    """What the tokenizer makes of one or more texts.

    Raises:
        ConfigError: it cannot write one, since it has no token for a part of it and none for what is unknown.
    """
    try:
        return tokenizer(texts, **how)
    except Exception as error:  # tokenizers raises no class of its own
        each = [texts] if isinstance(texts, str) else texts
        lost = next((text for text in each if not writes(tokenizer, text)), each[0])
        raise ConfigError(
            f"model.name: the tokenizer cannot write {lost[:60]!r} ({first_line(error)}); give the tokenizer an "
            "unknown token, or take such texts and labels out"
        ) from None


def writes(tokenizer: Any, text: str) -> bool:
    """Whether the tokenizer has tokens for all of a text, be it the one for what is unknown."""
    try:
        tokenizer(text)
    except Exception:  # as in `encoded`
        return False
    return True


def first_line(error: Exception) -> str:
    """What an exception says, in one line: its class if it says no more than a key, and the next line after a colon."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{type(error).__name__}: {said}" if isinstance(error, LookupError) else said


def bare(tokenizer: Any, text: str) -> Ids:
    """Token ids without special tokens around them. Raises ConfigError as `encoded`."""
    ids: Ids = encoded(tokenizer, text, add_special_tokens=False)["input_ids"]
    return ids


def frame_of(tokenizer: Any) -> Frame:
    """What the tokenizer puts around a text; nothing if no probe shows it."""
    for probe in (probe for probe in PROBES if writes(tokenizer, probe)):
        inner, whole = bare(tokenizer, probe), tokenizer(probe)["input_ids"]
        for start in range(len(whole) - len(inner) + 1) if inner else ():
            if whole[start : start + len(inner)] == inner:
                return Frame(tuple(whole[:start]), tuple(whole[start + len(inner) :]))
    return Frame()


def twice(tokenizer: Any, frame: Frame, prompt: Prompt) -> tuple[int, int]:
    """How many tokens at both ends of a row are there twice, since the prompt spells out what the tokenizer adds."""
    first, last = len(frame.before), len(frame.after)
    begins = first and tuple(bare(tokenizer, prompt.before)[:first]) == frame.before
    ends = last and tuple(bare(tokenizer, prompt.after)[-last:]) == frame.after
    return first if begins else 0, last if ends else 0


def once(ids: Ids, first: int, last: int) -> Ids:
    """The row without its first and its last tokens, as far as they are there twice."""
    begins = first if ids[:first] == ids[first : 2 * first] else 0
    ends = last if last and ids[-last:] == ids[-2 * last : -last] else 0
    return ids[begins : len(ids) - ends]


def without_end(ids: Ids, ending: Sequence[int]) -> Ids:
    """The row without these tokens at its end."""
    return ids[: -len(ending)] if ending and ids[-len(ending) :] == [*ending] else ids


def cuts(tokenizer: Any, text: str) -> tuple[list[int], bool]:
    """Places where a text can be cut, in characters from 0 on, and whether each is the end of a token. Tokenizers
    written in Python do not say where their tokens end, so every character may be the last."""
    if not getattr(tokenizer, "is_fast", False):
        return list(range(len(text) + 1)), False
    spans = encoded(tokenizer, text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [
        0,
        *(end for _, end in spans),
    ], True  # not every token ends a character, and the prompt may join its neighbour


def joined(prompt: str, word: str) -> str:
    """Prompt and answer as one string: a space stands between them, unless the prompt ends with one."""
    return prompt + word if prompt.endswith(" ") else f"{prompt} {word}"


def seam(tokenizer: Any, prompt: Prompt, words: Sequence[str]) -> Seam:
    """Where the answers `words` begin after a prompt, from the tokens of prompt and answer as one string.

    The tokens that the prompt has with and without each of the answers stay in the prompt. So `dropped` is 0, except if
    a tokenizer joins the end of the prompt with a word, as ` ` and `yes` to ` yes`.

    Raises:
        ConfigError: a word adds no token, or is joined with more than the fixed end of the prompt.
    """
    head = next((text for text in STAND_INS if writes(tokenizer, text)), "") + prompt.after
    alone = bare(tokenizer, head)
    wholes = [bare(tokenizer, joined(head, word)) for word in words]
    for word, whole in zip(words, wholes, strict=True):
        if len(alone) - common(alone, whole) > len(bare(tokenizer, prompt.after)):
            raise apart(prompt, word)
    kept = min((common(alone, whole) for whole in wholes), default=len(alone))
    for word, whole in zip(words, wholes, strict=True):
        if len(whole) == kept:
            raise ConfigError(f"label {word!r} is no token to the model; rename it")
    return Seam(len(alone) - kept, [whole[kept:] for whole in wholes])


def apart(prompt: Prompt, word: str) -> ConfigError:
    """The error for an answer that has tokens in common with the text before it."""
    end = f"the end of the prompt, {prompt.after[-20:]!r}," if prompt.after else "the text before it"
    return ConfigError(
        f"label {word!r} is joined with {end} by the model's tokenizer, so that it has no tokens of its own; end "
        "model.prompt in another way, for instance with '\\nAnswer:', or rename the label"
    )


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the beginning that both have in common."""
    return len([*takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))])


def check_said(tokenizer: Any, words: Sequence[str], rows: Sequence[Ids]) -> None:
    """Raises ConfigError if a word, with its token ids in `rows`, is nothing but unknown or special tokens."""
    silent = named_ids(tokenizer)
    for word, ids in zip(words, rows, strict=True):
        says = [token for token in ids if token not in silent]
        if not says or not tokenizer.decode(says).strip():
            shown = " ".join(dict.fromkeys(map(str, tokenizer.convert_ids_to_tokens(ids)))) or "no token"
            raise ConfigError(
                f"label {word!r} says nothing to the model, whose tokenizer makes {shown} of it; rename it"
            )


def check_apart(
    words: Sequence[str], seen: Sequence[Hashable], fix: str = "rename one of them", same: str = "tokens to the model"
) -> None:
    """Raises ConfigError if two words are the same in `seen`, which holds what the model sees of each."""
    first: dict[Hashable, str] = {}
    for word, what in zip(words, seen, strict=True):
        if what in first:
            one, other = map(ascii if looks_like(first[what], word) else repr, (first[what], word))
            raise ConfigError(f"labels: {one} and {other} are the same {same}; {fix}")
        first[what] = word


def first_places(seen: Sequence[Hashable]) -> list[int]:
    """The places in `seen` of what is not there before."""
    first: dict[Hashable, int] = {}
    for place, what in enumerate(seen):
        first.setdefault(what, place)
    return [*first.values()]


def looks_like(a: str, b: str) -> bool:
    """Whether people cannot see that two words differ: é as one character and as two, or characters without width."""
    seen = ["".join(char for char in normalize("NFC", word) if category(char) not in ("Cf", "Cc")) for word in (a, b)]
    return seen[0] == seen[1]


def named_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of unknown words, padding, beginnings and ends."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    unknown = getattr(model, "unk_token", None)  # which a tokenizer may have without naming it
    found = [getattr(tokenizer, f"{name}_token_id", None) for name in NAMED]
    found.append(tokenizer.convert_tokens_to_ids(unknown) if isinstance(unknown, str) else None)
    return frozenset(token for token in found if token is not None)


def check_known(tokenizer: Any, ids: Iterable[int], known: int, what: str) -> None:
    """Raises ConfigError if an id is none of the model's `known` embeddings; `what` says what has the token."""
    if beyond := [token for token in ids if token >= known]:
        token = tokenizer.convert_ids_to_tokens(beyond[0])
        raise ConfigError(
            f"model.name: {what} the token {token!r}, whose id {beyond[0]} is beyond the model's {known} embeddings; "
            f"save the model after model.resize_token_embeddings({beyond[0] + 1}), or a tokenizer without that token"
        )


def usable(candidates: Iterable[int | None], known: int | None) -> int:
    """The first id that exists and has an embedding; 0 if none has."""
    return next((token for token in candidates if token is not None and 0 <= token < (known or token + 1)), 0)


def spread(rows: Sequence[str], most: int) -> list[str]:
    """At most `most` of the rows, evenly spread."""
    return list(rows) if len(rows) <= most else [rows[i * len(rows) // most] for i in range(most)]


def most_id(tokenizer: Any) -> int:
    """The largest id that the tokenizer can give."""
    ids: Collection[int] = tokenizer.get_vocab().values()
    return max([*ids, len(tokenizer) - 1])
