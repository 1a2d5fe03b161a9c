"""Where an answer begins and which words are alike, for real tokenizers of every kind; prompt and answer are the tokens
of both as one string, or the task is refused."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from cluster.errors import ConfigError
from tests.support.tiny_tokenizers import KINDS, real
from trainers.data.prompts import Prompt
from trainers.models.causal import CHECKED_ROWS, Causal
from trainers.models.encoder import LabelEmbedding
from trainers.models.seq2seq import Seq2Seq
from trainers.models.words import (
    Frame,
    check_known,
    first_line,
    frame_of,
    joined,
    once,
    seam,
    spread,
    usable,
    without_end,
)

ENDINGS = ("", "bos", "eos", "bos eos")
PROMPTS = [
    Prompt(), Prompt("Review: ", ""), Prompt("", " "), Prompt("", "\nAnswer:"), Prompt("Review: ", "\nAnswer: "),
    Prompt("", "\nAnswer:  "), Prompt("<s>", "\n"), Prompt("<s>Review: ", " </s> Answer:"), Prompt("", "("),
]  # fmt: skip
WORDS = ["yes", "no", "very good", "positive"]
TEXTS = ["a bad film", "5 stars", "the film was", "good :", "no\nAnswer: no"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def as_one_string(kind: str, ending: str, prompt: Prompt, texts: Sequence[str], words: Sequence[str]) -> bool:
    """Whether the task is accepted. If it is, each row and answer are the tokens that the tokenizer makes of both."""
    made = real(kind, ending)
    bone = Causal(None, made, 400, "")
    try:
        bone.check_labels(words, prompt)
        bone.check_texts(texts, words, prompt)
    except ConfigError as error:
        assert any(repr(word) in str(error) for word in words), error
        return False
    begins = [made.bos_token_id] if "bos" in ending and kind != "byt5" and not prompt.before.startswith("<s>") else []
    rows, answers = bone.tokenize(texts, prompt, words), bone.encode_labels(words, prompt)
    assert len(rows) == len(texts) and len(answers) == len(words)
    for text, row in zip(texts, rows, strict=True):
        before = prompt.before + text + prompt.after
        for word, answer in zip(words, answers, strict=True):
            whole = before + word if before.endswith(" ") else f"{before} {word}"
            assert row + answer == begins + made(whole, add_special_tokens=False)["input_ids"] + [made.eos_token_id]
            assert len(answer) > 1
    return True


@every_kind
@pytest.mark.parametrize("ending", ENDINGS)
def test_prompt_and_answer_are_the_tokens_of_both(kind: str, ending: str) -> None:
    accepted = [as_one_string(kind, ending, prompt, TEXTS, WORDS) for prompt in PROMPTS]
    if kind != "byte-level, unsplit":  # which makes one token of `Answer: `
        assert sum(accepted) >= len(PROMPTS) - 1, accepted


@every_kind
def test_random_texts_and_words(kind: str) -> None:
    """As the property test below, over what a seed draws."""
    drawn = random.Random(5)
    signs, accepted = "ab yesno5:.\n(\"'Äß日▁😀Answer film", 0
    for _ in range(60):

        def some(least: int, drawn: random.Random = drawn) -> str:
            found = "".join(drawn.choices(signs, k=drawn.randint(least, 9))).strip()
            return found or "a"

        prompt = Prompt(drawn.choice(["", "<s>", "Review: ", some(1)]), drawn.choice(["", " ", "\nAnswer:", some(1)]))
        words = sorted({some(1) for _ in range(drawn.randint(2, 4))})
        accepted += as_one_string(kind, drawn.choice(ENDINGS), prompt, [some(1) for _ in range(3)], words)
    assert accepted >= 5


@every_kind
def test_rows_that_are_cut(kind: str) -> None:
    """They are rows of a beginning of the text, as long as it can be, and their answers fit them."""
    made, text = real(kind, "bos eos"), "a bad 🙂 film was läng " * 5
    for prompt in PROMPTS[3:6]:
        bone = Causal(None, made, 34, "")
        (row,), answers = bone.tokenize([text], prompt, WORDS), bone.encode_labels(WORDS, prompt)
        heads = [prompt.before + text[:end] + prompt.after for end in range(len(text))]
        fitting = [
            head
            for head in heads
            if all([*row, *a[:-1]] == bone.framed([joined(head, w)])[0] for w, a in zip(WORDS, answers, strict=True))
        ]
        longer = bone.framed([heads[min(len(heads) - 1, heads.index(fitting[-1]) + 4)]])[0]
        assert len(row) <= 34 <= len(longer)


@pytest.mark.slow
def test_any_texts_and_words() -> None:
    """Whatever hypothesis thinks of."""
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    strings = st.text(max_size=12).map(str.strip).filter(bool)

    @hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @hypothesis.given(
        st.sampled_from(KINDS), st.sampled_from(ENDINGS),
        st.sampled_from(PROMPTS) | st.builds(Prompt, strings, strings),
        st.lists(strings, min_size=1, max_size=3), st.lists(strings, min_size=1, max_size=3, unique=True),
    )  # fmt: skip
    def check(kind: str, ending: str, prompt: Prompt, texts: list[str], words: list[str]) -> None:
        as_one_string(kind, ending, prompt, texts, words)

    check()


# --- where an answer begins


def test_a_label_that_shares_a_token_with_the_prompt() -> None:
    """As `: C` in one token: the answer begins with what it shares with the prompt, and no answer is empty."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocab = {token: index for index, token in enumerate(["</s>", "▁", ":", "A", "C", "D", ":▁", ":▁C"])}
    made = Tokenizer(models.BPE(vocab, [(":", "▁"), (":▁", "C")]))
    made.decoder = decoders.Replace("▁", " ")
    words = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")
    joins = words.backend_tokenizer
    from tokenizers import normalizers

    joins.normalizer = normalizers.Replace(" ", "▁")
    found = seam(words, Prompt("", "A:"), ["C", "D"])
    assert words.convert_ids_to_tokens(found.answers[0]) == [":▁C"] and found.dropped == 1
    assert words.convert_ids_to_tokens(found.answers[1]) == [":▁", "D"]
    bone = Causal(None, words, 50, "")
    (row,) = bone.tokenize(["D"], Prompt("", "A:"), ["C", "D"])
    assert [row + answer[:-1] for answer in bone.encode_labels(["C", "D"], Prompt("", "A:"))] == [
        words("DA: C")["input_ids"], words("DA: D")["input_ids"],
    ]  # fmt: skip


def test_a_label_joined_with_the_text_is_refused() -> None:
    made = real("byte-level, unsplit")
    with pytest.raises(ConfigError, match=r"label 'positive' is joined with the text before it .*end model\.prompt"):
        seam(made, Prompt(), ["positive"])


def test_a_row_joined_with_a_label_is_refused() -> None:
    """The text's last sign decides; the prompt alone would pass."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocab = {token: index for index, token in enumerate(["</s>", *"Answer:", " ", "y", "z", "z ", "z y"])}
    made = Tokenizer(models.BPE(vocab, [("z", " "), ("z ", "y")]))
    bone = Causal(None, PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>"), 50, "")
    bone.check_texts(["ee", "we"], ["y", "s"])
    many = ["ee"] * 500
    bone.check_texts(many, ["y", "s"])
    many[3] = "ee wz"
    assert many[3] not in spread(many, CHECKED_ROWS)
    for texts in (["ee", "wz"], many):
        with pytest.raises(ConfigError, match=r"label 'y' is joined with the end of the prompt, '(ee )?wz',"):
            bone.check_texts(texts, ["y", "s"])


def test_joined() -> None:
    assert [joined(prompt, "b") for prompt in ("a", "a ", "a\n", "")] == ["a b", "a b", "a\n b", " b"]


# --- what a tokenizer adds


@every_kind
def test_what_is_put_around_a_text(kind: str) -> None:
    expected = [((), ()), ((0,), ()), ((), (1,)), ((0,), (1,))]
    if kind == "byt5":
        expected = [((), (1,))] * 4
    assert [frame_of(real(kind, ending)) for ending in ENDINGS] == [Frame(*each) for each in expected]


@every_kind
@pytest.mark.parametrize("family", [Causal, Seq2Seq, LabelEmbedding])
def test_ends_of_rows(kind: str, family: Any) -> None:
    """Only a decoder's rows are open at their end. What a prompt spells out is not added once more."""
    made = real(kind, "bos eos")
    bone = family(None, made, 12, "")
    text = "a bad film " * 9
    for prompt in (Prompt(), Prompt("a ", " :"), Prompt("</s>a ", "no </s>"), Prompt("<s>", "</s>")):
        for row in bone.tokenize([text, "a"], prompt):
            assert len(row) <= 12
            if kind != "byt5":
                assert row[0] == 0 and row[1] != 0
            if family is not Causal:
                assert row[-1] == 1 and row[-2] != 1
            elif not prompt.after.endswith("</s>"):
                assert row[-1] != 1
    assert len(bone.tokenize([text])[0]) == 12


def test_ends_of_rows_in_ids() -> None:
    assert once([0, 0, 5, 1, 1], 1, 1) == [0, 5, 1] and once([0, 5, 1], 1, 1) == [0, 5, 1] == once([0, 5, 1], 0, 0)
    assert without_end([5, 1], (1,)) == [5] and without_end([5, 1], (2,)) == [5, 1] == without_end([5, 1], ())


# --- words that are alike, or say nothing


@pytest.mark.parametrize("family", [LabelEmbedding, Seq2Seq, Causal])
@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("wordpiece", ["Positive", "negative", "positive"], "'Positive' and 'positive' are the same tokens"),
        ("wordpiece", ["good", "😀", "😭"], "'😀' and '😭' are the same tokens"),
        ("metaspace always", ["退款", "good", "换货"], "'退款' and '换货' are the same tokens"),
        ("unigram", ["ยาว", "สั้น"], "'ยาว' and 'สั้น' are the same tokens"),
        ("wordpiece", ["café", "cafe\u0301"], r"'caf\\xe9' and 'cafe\\u0301' are the same tokens"),
        ("wordpiece", ["good", "日"], "'日' says nothing to the model, whose tokenizer makes (<s> )?<unk>"),
        ("wordpiece", ["good", "\u200b"], "'\\\\u200b' (says nothing to|is no token to) the model"),
        ("byte-level", ["good", "</s>"], "'</s>' says nothing to the model"),
    ],
)
def test_words_that_are_no_labels(family: Any, kind: str, words: list[str], said: str) -> None:
    bone = family(None, real(kind, "bos eos"), 64, "")
    with pytest.raises(ConfigError, match=said):
        bone.check_labels(words)
    bone.check_labels(["good", "bad", "very 5"])


def test_words_alike_after_they_are_cut() -> None:
    long = ["a very very bad film", "a very very bad film was good"]
    for family in (Seq2Seq, Causal):
        family(None, real("wordpiece"), 4, "").check_labels(long)  # answers are not cut
    with pytest.raises(ConfigError, match=r"same tokens .* raise model\.max_length, which cuts them after 4 tokens"):
        LabelEmbedding(None, real("wordpiece"), 4, "").check_labels(long)


def test_words_alike_as_strings() -> None:
    """Generated answers are compared as strings, so words may differ in white space that a decoder leaves out."""
    words = ["a.b", "a . b"]
    Seq2Seq(None, real("byte-level"), 64, "").check_labels(words)
    Seq2Seq(None, real("byte-level"), 64, "", "generation").check_labels(["good", "bad"])
    made = real("byte-level")
    with pytest.raises(
        ConfigError, match=r"same text once generated, .* rename one of them, or use model\.scoring: like"
    ):
        Seq2Seq(None, made, 64, "", "generation").check_labels(["good", "good</s>"])


@pytest.mark.parametrize("family", [LabelEmbedding, Seq2Seq, Causal])
def test_a_tokenizer_that_cannot_write_every_text(family: Any) -> None:
    """It has no token for what is unknown, and raises a plain Exception. What it can write is taken, row for row."""
    bone = family(None, only_letters("abdegor "), 64, "")
    assert frame_of(bone.tokenizer) == Frame()
    bone.check_labels(["good", "bad"])
    bone.check_texts(["a good dog", "bad"], ["good", "bad"])
    for act in (lambda: bone.check_texts(["a good dog", "a fox"], ["good"]), lambda: bone.tokenize(["bad", "a fox"])):
        with pytest.raises(ConfigError, match=r"model\.name: the tokenizer cannot write 'a fox' \(.*\); give the tok"):
            act()
    with pytest.raises(ConfigError, match=r"the tokenizer cannot write '(a )?fox'"):
        bone.check_labels(["good", "fox"])


def only_letters(letters: str) -> Any:
    """A tokenizer that knows no other characters, as those trained on one alphabet."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = ["</s>", *letters]
    made = Tokenizer(models.WordLevel({token: place for place, token in enumerate(known)}, unk_token="none"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Split(Regex("."), "isolated"), decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="</s>")


def test_what_an_exception_says() -> None:
    assert first_line(KeyError("added_tokens")) == "KeyError: 'added_tokens'" and first_line(EOFError()) == "EOFError"
    assert first_line(ValueError("field 'a':\n  expected int\nmore")) == "field 'a': expected int"
    assert first_line(ValueError("one\ntwo")) == "one"


# --- ids and embeddings


def test_ids_without_an_embedding() -> None:
    made = real("wordpiece")
    check_known(made, [0, 1, 9], 10, "a text has")
    with pytest.raises(
        ConfigError, match=r"a text has the token '.+', whose id 10 is beyond the model's 10 embeddings"
    ):
        check_known(made, [3, 10], 10, "a text has")
    assert usable([None, 400, 7, 2], 400) == 7 and usable([None, 400], None) == 400 and usable([None], 5) == 0


def test_rows_evenly_spread() -> None:
    assert spread(["a", "b"], 2) == ["a", "b"] and spread(list("abcdef"), 3) == ["a", "c", "e"]
