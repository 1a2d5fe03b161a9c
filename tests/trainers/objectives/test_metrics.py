"""Metrics of free answers against implementations written here, and figures published elsewhere."""

import math
import random
import re
import string
from collections import Counter
from collections.abc import Sequence

import pytest

from trainers.objectives.metrics import METRICS

WORDS = "the a cat sat on mat, Dog ran! 3 1,204 -7.5 Ünder 北京 over (lazy) fox's".split()  # noqa: SIM905


def pairs(count: int, words: Sequence[str] = WORDS, seed: int = 0) -> list[tuple[str, str]]:
    """Random answers and references that often share words."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        right = rng.choices(words, k=rng.randrange(0, 9))
        said = [word for word in right if rng.random() < 0.8] + rng.choices(words, k=rng.randrange(0, 3))
        made.append((" ".join(said), " ".join(right)))
    return made


def cleaned(text: str) -> list[str]:
    return re.sub(f"[{re.escape(string.punctuation)}]", "", text.lower()).split()


def exact(answer: str, right: str) -> float:
    return float(cleaned(answer) == cleaned(right))


def f1(answer: str, right: str) -> float:
    left, other = ([w for w in cleaned(text) if w not in ("a", "an", "the")] for text in (answer, right))
    same = sum(min(left.count(word), other.count(word)) for word in {*left})
    if not left or not other:
        return float(left == other)
    precision, recall = same / len(left), same / len(other)
    return 2 * precision * recall / (precision + recall) if same else 0.0


def longest(left: list[str], right: list[str]) -> int:
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def rouge(answer: str, right: str) -> float:
    left, other = (re.findall(r"[a-z0-9]+", text.lower()) for text in (answer, right))
    same = longest(left, other)
    return 2 * same / (len(left) + len(other)) if same else 0.0


def edits(answer: str, right: str) -> float:
    whole = len(answer) + len(right)
    return 2 * longest([*answer], [*right]) / whole if whole else 1.0


def squad(answer: str, right: str) -> float:
    left, other = ([w for w in cleaned(text) if w not in ("a", "an", "the")] for text in (answer, right))
    return float(left == other)


def raw(answer: str, right: str) -> float:
    return float(answer == right)  # pairs have no outer white space


def first(answer: str, right: str) -> float:
    return float(right != "" and answer != "" and answer[0] == right[0])


def number(answer: str, right: str) -> float:
    """Numbers of the vocabulary, read word by word."""
    values = {"3": 3.0, "1,204": 1204.0, "-7.5": -7.5}
    left, other = ([values[word] for word in text.split() if word in values] for text in (answer, right))
    return float(left[-1:] == other[-1:]) if other else float(answer == right)


STEMS = {"cats": "cat", "cat": "cat", "running": "run", "runs": "run", "run": "run", "happily": "happili", "ran": "ran",
         "happy": "happi", "happiness": "happi", "the": "the", "is": "is", "as": "as", "relational": "relat",
         "relate": "relat", "sits": "sit", "sitting": "sit"}  # fmt: skip  # by hand, after Porter, 1980


def rouge_stems(answer: str, right: str) -> float:
    left, other = ([STEMS[word] for word in text.lower().split()] for text in (answer, right))
    same = longest(left, other)
    return 2 * same / (len(left) + len(other)) if same else 0.0


def tokens_13a(text: str) -> list[str]:
    """mteval-v13a: symbols apart; commas, full stops and hyphens too, unless a number holds them."""
    spaced = ""
    for i, c in enumerate(text := f" {text} "):
        before, after = text[i - 1 : i], text[i + 1 : i + 2]
        apart = c in "!\"#$%&()*+/:;<=>?@[\\]^_`{|}~" or (
            c in ".," and not (before.isdigit() and after.isdigit())
        ) or (c == "-" and before.isdigit())  # fmt: skip
        spaced += f" {c} " if apart else c
    return spaced.split()


def bleu(answer: str, right: str) -> float:
    """Sentence BLEU up to the longest n-gram of the answer; zero counts become 1/2, 1/4, … (Chen and Cherry, 2014)."""
    left, other = tokens_13a(answer), tokens_13a(right)
    logs, halved = [], 1.0
    for n in range(1, min(4, len(left)) + 1):
        said, wanted = ([tuple(each[i : i + n]) for i in range(len(each) - n + 1)] for each in (left, other))
        right_ones: float = sum(min(said.count(gram), wanted.count(gram)) for gram in {*said})
        if n == 1 and not right_ones:
            return 0.0
        if not right_ones:
            halved /= 2
            right_ones = halved
        logs.append(math.log(right_ones / len(said)))
    if not left:
        return 0.0
    return min(1.0, math.exp(1 - len(other) / len(left))) * math.exp(sum(logs) / len(logs))


def chrf(answer: str, right: str) -> float:
    """F2 of mean precision and mean recall over 1 to 6 characters without white space (Popović, 2015)."""
    left, other = "".join(answer.split()), "".join(right.split())
    precisions, recalls = [], []
    for n in range(1, 7):
        said, wanted = ([each[i : i + n] for i in range(len(each) - n + 1)] for each in (left, other))
        if said and wanted:
            same = sum(min(said.count(gram), wanted.count(gram)) for gram in {*said})
            precisions.append(same / len(said))
            recalls.append(same / len(wanted))
    precision, recall = (sum(each) / len(each) if each else 0.0 for each in (precisions, recalls))
    return 5 * precision * recall / (4 * precision + recall) if precision + recall else 0.0


def sari(answer: str, references: list[str], source: str) -> float:
    """Each n-gram on its own, in shares of references (Xu et al., 2016); what there was nothing to do of is right."""
    total = 0.0
    for n in range(1, 5):

        def grams(text: str, n: int = n) -> list[tuple[str, ...]]:
            words = text.lower().split()
            return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

        old, new, wanted = grams(source), grams(answer), [grams(each) for each in references]
        many = len(references)
        keep_p, keep_r, delete, added, right_added, to_add = [], [], [], 0, 0, 0
        for gram in {*old, *new, *(gram for each in wanted for gram in each)}:
            s, c, r = many * old.count(gram), many * new.count(gram), sum(each.count(gram) for each in wanted)
            if kept := min(s, c):
                keep_p.append(min(kept, r) / kept)
            if to_keep := min(s, r):
                keep_r.append(min(s, c, r) / to_keep)
            if (gone := s - c) > 0:
                delete.append(max(0, gone - r) / gone)
            added += c > 0 == s
            to_add += r > 0 == s
            right_added += c > 0 == s and r > 0

        def share(values: list[float]) -> float:
            return sum(values) / len(values) if values else 1.0

        def f(p: float, r: float) -> float:
            return 2 * p * r / (p + r) if p + r else 0.0

        add = f(right_added / added if added else 1.0, right_added / to_add if to_add else 1.0)
        total += (f(share(keep_p), share(keep_r)) + add + share(delete)) / 3
    return total / 4


def code(answer: str, right: str) -> float:
    return edits(filled(answer).strip(), filled(right).strip())


def raw_code(answer: str, right: str) -> float:
    """As fuzzywuzzy has it: white space counts, and what is empty is 0."""
    left, other = filled(answer), filled(right)
    return edits(left, other) if left and other else 0.0


def filled(text: str) -> str:
    """Code of the vocabulary with the values that its placeholders stand for."""
    values = {"<NUM_LIT>": "0", "<STR_LIT>": "", "<CHAR_LIT>": "", "<NUM_LIT:42>": "42", "<STR_LIT:a b>": "a b"}
    for placeholder, literal in values.items():
        text = text.replace(placeholder, literal)
    return text


CODE = ["x", "=", "f(<NUM_LIT>)", "<STR_LIT>", "[<NUM_LIT:42>]", "<STR_LIT:a b>", "<CHAR_LIT>;", "return"]


def stripped(answer: str, right: str) -> float:
    """Super-NaturalInstructions' own: ASCII punctuation goes, letter by letter."""
    left, other = ("".join(c for c in text.lower() if c not in string.punctuation).split() for text in (answer, right))
    return float(left == other)


def trace(answer: str, right: str) -> float:
    return float(answer == right and right != "")


REFERENCES = {
    "superni_exact_match": stripped, "trace_match": trace, "trace_first_character": first,
    "exact_match": exact, "raw_match": raw, "squad_em": squad, "token_f1": f1, "rouge_l_words": rouge,
    "edit_similarity": edits, "first_character": first, "number_match": number, "bleu": bleu, "chrf": chrf,
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_as_an_independent_implementation_on_random_pairs(name: str) -> None:
    values, words = [], [word for word in WORDS if word.isascii() or name != "rouge_l_words"]
    for answer, right in pairs(500, words):
        values.append(METRICS[name](answer, [right], ""))
        assert values[-1] == pytest.approx(REFERENCES[name](answer, right)), (answer, right)
    assert Counter(values).most_common(1)[0][1] < len(values) == 500, "not all alike"


def test_stems_on_random_pairs() -> None:
    values = []
    for answer, right in pairs(500, [*STEMS]):
        values.append(METRICS["rouge_l"](answer, [right], ""))
        assert values[-1] == pytest.approx(rouge_stems(answer, right)), (answer, right)
        assert METRICS["superni_rouge_l"](answer, [right], "") == values[-1]  # words in ASCII alone
    assert len({*values}) > 20


def test_code_on_random_pairs() -> None:
    values = []
    for answer, right in pairs(500, CODE):
        values.append(METRICS["code_similarity"](answer, [right], ""))
        assert values[-1] == pytest.approx(code(answer, right)), (answer, right)
        rounded = METRICS["trace_edit_similarity"](answer, [right], "")
        assert rounded == pytest.approx(raw_code(answer, right), abs=0.005001), (answer, right)
    assert len({*values}) > 20


def test_sari_on_random_triples() -> None:
    values = []
    for (answer, right), (source, other) in zip(pairs(500), pairs(500, seed=1), strict=True):
        values.append(METRICS["sari"](answer, [right, other], f"{source} {right[:12]}"))
        assert values[-1] == pytest.approx(sari(answer, [right, other], f"{source} {right[:12]}")), (answer, right)
    assert len({*values}) > 100


def test_every_metric_has_an_independent_implementation() -> None:
    """Those of MeetingBank and 20Minuten: `test_parity`, against figures of the packages that TRACE calls."""
    here = {*REFERENCES, "rouge_l", "superni_rouge_l", "sari", "code_similarity", "trace_edit_similarity"}
    assert {*METRICS} - here == {"trace_rouge_l", "trace_sari"}


@pytest.mark.parametrize("name", METRICS)
def test_values_are_from_0_to_1_and_the_right_answer_has_the_most(name: str) -> None:
    for answer, right in pairs(60):
        assert 0 <= METRICS[name](answer, [right], "some source") <= 1
        if len(right.split()) > 4:
            assert METRICS[name](right, [right], right) == pytest.approx(1)
    for odd in ("", " ", "\n", "\ud800", "😀", "x" * 5000):
        assert 0 <= METRICS[name](odd, ["right"], "source") <= 1


@pytest.mark.parametrize("name", [name for name in METRICS if "sari" not in name])
def test_the_best_reference_counts(name: str) -> None:
    assert METRICS[name]("four black cats ran", ["nothing", "four black cats ran"], "") == pytest.approx(1)


def test_sari_gives_the_published_figures() -> None:
    """The example of the authors' code, SARI.py of cocoxu/simplification."""
    source = "About 95 species are currently accepted ."
    right = [
        "About 95 species are currently known .",
        "About 95 species are now accepted .",
        "95 species are now accepted .",
    ]
    said = {"About 95 you now get in .": 0.2682782411698074, "About 95 species are now agreed .": 0.5889995423074248}
    for answer, published in said.items():
        assert METRICS["sari"](answer, right, source) == pytest.approx(published)


@pytest.mark.parametrize(
    ("name", "answer", "right", "value"),
    [
        ("exact_match", "The  Cat.", "the cat", 1),
        ("exact_match", "a cat", "cat", 0),
        ("exact_match", "?", "!", 0),
        ("squad_em", "a cat", "cat", 1),
        ("raw_match", "Cat ", "Cat", 1),
        ("raw_match", "cat", "Cat", 0),
        ("edit_similarity", "a, b\n", " a, b", 1),  # completions often begin with a space
        ("code_similarity", " f(<NUM_LIT>)", " f(0)", 1),
        ("first_character", "B. because", "B", 1),
        ("first_character", "", "B", 0),
        ("number_match", "it is 1,204.0 in all", "#### 1204", 1),
        ("number_match", "12 then 7", "12", 0),
        ("number_match", "none", "3", 0),
        ("rouge_l", "cats sitting", "cat sits", 1),
        ("rouge_l_words", "cats sitting", "cat sits", 0),
        ("rouge_l_words", "北京很大", "北京很小", 0.75),
        ("rouge_l_words", "größe zählt", "Größe zählt", 1),
    ],
)
def test_by_hand(name: str, answer: str, right: str, value: float) -> None:
    assert METRICS[name](answer, [right], "") == pytest.approx(value)
