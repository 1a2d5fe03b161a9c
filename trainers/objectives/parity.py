"""Metrics as two benchmarks' own code computes them, to compare with published figures: one number from 0 to 1 per row.

    superni_exact_match    equal in lower case, without ASCII punctuation (Super-NaturalInstructions, arXiv:2204.07705)
    superni_rouge_l        rouge_score's F-measure with stemmer; letters outside ASCII are no words to it
    trace_match            equal as strings, white space included (TRACE, arXiv:2310.06762)
    trace_first_character  the first characters are equal (ScienceQA)
    trace_rouge_l          that of the package `rouge`: distinct words in common subsequences of sentences (MeetingBank)
    trace_edit_similarity  that of `fuzzywuzzy`, in whole percent, with placeholders for literals filled in (Py150)
    trace_sari             that of `evaluate`: words by sacrebleu's 13a, recall of what is kept by counts (20Minuten)

An empty answer or reference is 0 in TRACE. ScienceQA's own code stops at an empty answer; here it is 0 as well.
"""

import re
import string
from collections.abc import Sequence
from functools import cache
from typing import Any

from trainers.objectives.sari import of_words

LITERALS = {"<NUM_LIT>": "0", "<STR_LIT>": "", "<CHAR_LIT>": ""}
LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)
PUNCTUATION = str.maketrans("", "", string.punctuation)


def filled_in(code: str) -> str:
    """Code with its placeholders for literals replaced by what they stand for."""
    for placeholder, literal in LITERALS.items():
        code = code.replace(placeholder, literal)
    return LITERAL.sub(lambda found: found[1], code)


# ---------------------------------------------------------------- Super-NaturalInstructions


def superni_exact_match(answer: str, reference: str) -> float:
    """1 if both are equal, normalised."""
    left, right = (" ".join(text.lower().translate(PUNCTUATION).split()) for text in (answer, reference))
    return float(left == right)


@cache
def stemming_scorer() -> Any:
    """rouge_score's own, tokenizer included."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def superni_rouge_l(answer: str, reference: str) -> float:
    """F-measure over word stems."""
    return float(stemming_scorer().score(reference, answer)["rougeL"].fmeasure)


# ---------------------------------------------------------------- TRACE


def trace_match(answer: str, reference: str) -> float:
    """1 if both are equal."""
    return float(answer == reference != "")


def trace_first_character(answer: str, reference: str) -> float:
    """1 if both begin alike."""
    return trace_match(answer[:1], reference[:1])


def trace_edit_similarity(answer: str, reference: str) -> float:
    """Similarity of insertions and deletions, rounded to hundredths."""
    from rapidfuzz.distance import Indel

    left, right = filled_in(answer), filled_in(reference)
    return round(100 * Indel.normalized_similarity(left, right)) / 100 if left and right else 0.0


def trace_rouge_l(answer: str, reference: str) -> float:
    """F of the union of words in the longest common subsequences of all pairs of sentences, over distinct words.

    TRACE hands the reference over as the hypothesis; that decides which of several longest subsequences counts.
    """
    said, wanted = sentences(answer), sentences(reference)
    if not answer or not reference or not said or not wanted:
        return 0.0
    common = {word for one in said for other in wanted for word in subsequence(one, other)}
    recall, precision = (len(common) / len({word for each in text for word in each}) for text in (said, wanted))
    return 2 * precision * recall / (precision + recall + 1e-8)


def sentences(text: str) -> list[list[str]]:
    """The words between full stops; a sentence of white space has one empty word."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def subsequence(left: Sequence[str], right: Sequence[str]) -> list[str]:
    """A longest common subsequence, found from the end; of equally long ones it drops words of `right` first."""
    lengths = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, one in enumerate(left, start=1):
        for j, other in enumerate(right, start=1):
            lengths[i][j] = lengths[i - 1][j - 1] + 1 if one == other else max(lengths[i - 1][j], lengths[i][j - 1])
    found, i, j = list[str](), len(left), len(right)
    while i and j:
        if left[i - 1] == right[j - 1]:
            found.append(left[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]


def trace_sari(answer: str, references: Sequence[str], source: str) -> float:
    """SARI of words by 13a, in lower case."""
    texts = [tokenizer_13a()(text.lower()).split(" ") for text in (source, answer, *references)]
    return of_words(texts, by_count=True)


@cache
def tokenizer_13a() -> Any:
    """sacrebleu's."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()
