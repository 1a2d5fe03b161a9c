"""Metrics of free answers against implementations written here, and figures published elsewhere."""

import random
import re
import string
from collections import Counter
from collections.abc import Callable

import pytest

from trainers.objectives.metrics import METRICS

WORDS = "the a cat sat on mat, Dog ran! 3 1,204 -7.5 Ünder 北京 over (lazy) fox's".split()  # noqa: SIM905


def pairs(count: int) -> list[tuple[str, str]]:
    """Random answers and references that often share words."""
    rng = random.Random(0)
    made = []
    for _ in range(count):
        right = rng.choices(WORDS, k=rng.randrange(0, 9))
        said = [word for word in right if rng.random() < 0.8] + rng.choices(WORDS, k=rng.randrange(0, 3))
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


@pytest.mark.parametrize(
    ("name", "reference"),
    [("exact_match", exact), ("token_f1", f1), ("rouge_l_words", rouge), ("edit_similarity", edits)],
)
def test_as_an_independent_implementation_on_random_pairs(name: str, reference: Callable[[str, str], float]) -> None:
    metric = METRICS[name]
    values = []
    for answer, right in pairs(500):
        if name == "rouge_l_words" and not (answer + right).isascii():
            continue
        values.append(metric(answer, [right], ""))
        assert values[-1] == pytest.approx(reference(answer, right)), (answer, right)
    assert len(values) > 80 and Counter(values).most_common(1)[0][1] < len(values), "not all alike"


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
