"""How an answer in free text is scored: one number from 0 to 1 per row, higher is better.

A score over a split is the mean over its rows, so that ranks add up exactly. For that reason BLEU and chrF are means
over sentences. If a row has several references, the best one counts, except for SARI, which reads all of them at once.

    exact_match       equal in lower case, without punctuation; articles stay (O-LoRA, arXiv:2310.14152)
    raw_match         equal as strings, outer white space aside (TRACE, arXiv:2310.06762: C-STANCE, FOMC, …)
    squad_em          as exact_match, without articles (SQuAD, arXiv:1606.05250)
    token_f1          F1 over the words of squad_em
    rouge_l           F-measure of the longest common subsequence of word stems (Lin, 2004; Porter's stemmer)
    rouge_l_words     the same without stemmer
    edit_similarity   1 − insertions and deletions / characters of both
    code_similarity   edit_similarity with placeholders for literals filled in (TRACE: Py150)
    sari              mean over 1 to 4 words of what was kept, added and deleted against the source (Xu et al., 2016)
    bleu, chrf        of sacrebleu, per sentence, with effective order
    first_character   the first characters are equal (TRACE: ScienceQA)
    number_match      the last number of the answer is the last number of the reference

`parity` has those that begin with superni_ and trace_.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from trainers.objectives import parity
from trainers.objectives.sari import sari

Metric = Callable[[str, Sequence[str], str], float]  # answer, references, source → 0 to 1
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]|[^\W_]+")  # Chinese, Japanese: per character


def best(metric: Callable[[str, str], float]) -> Metric:
    """The largest value over the references."""
    return lambda answer, references, _source: max(metric(answer, reference) for reference in references)


# ---------------------------------------------------------------- equality


def squeezed(text: str) -> str:
    """Lower case, without punctuation of any script, spaces squeezed."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation and unicodedata.category(c)[0] != "P")
    return " ".join(kept.split())


def squad_words(text: str) -> list[str]:
    """The words that SQuAD compares: as `squeezed`, without articles."""
    return ARTICLES.sub(" ", squeezed(text)).split()


def exact_match(answer: str, reference: str) -> float:
    """1 if both are equal as `squeezed`; if punctuation is all that both have, as strings."""
    left, right = squeezed(answer), squeezed(reference)
    return float(left == right if left or right else answer.strip() == reference.strip())


def raw_match(answer: str, reference: str) -> float:
    """1 if both are equal as strings."""
    return float(answer.strip() == reference.strip())


def squad_em(answer: str, reference: str) -> float:
    """1 if the words of both are equal."""
    return float(squad_words(answer) == squad_words(reference))


def token_f1(answer: str, reference: str) -> float:
    """2PR / (P + R) over words with multiplicity; two answers without words are equal."""
    left, right = squad_words(answer), squad_words(reference)
    if not left or not right:
        return float(left == right)
    common = sum((Counter(left) & Counter(right)).values())
    return 2 * common / (len(left) + len(right))


def first_character(answer: str, reference: str) -> float:
    """1 if both begin alike."""
    left, right = answer.strip(), reference.strip()
    return float(left[:1] == right[:1] and bool(right))


def number_match(answer: str, reference: str) -> float:
    """1 if the last numbers are equal, thousands separators aside; a reference without one is compared as a string."""
    left, right = NUMBER.findall(answer), NUMBER.findall(reference)
    if not right:
        return raw_match(answer, reference)
    return float(bool(left) and value(left[-1]) == value(right[-1]))


def value(number: str) -> float:
    """The value of a number as NUMBER finds it."""
    return float(number.replace(",", ""))


# ---------------------------------------------------------------- overlap


class Words:
    """Tokens of ROUGE: those of `rouge_score`, or, if a text has letters outside ASCII, words of its script."""

    def __init__(self, stem: bool) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self.plain = DefaultTokenizer(use_stemmer=stem)

    def tokenize(self, text: str) -> list[str]:
        """The words in order."""
        tokens: list[str] = self.plain.tokenize(text) if text.isascii() else WORD.findall(text.lower())
        return tokens


@cache
def scorer(stem: bool) -> Any:
    """rouge_score's scorer of the longest common subsequence."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=Words(stem))


def rouge_l(answer: str, reference: str) -> float:
    """F-measure over word stems."""
    return float(scorer(True).score(reference, answer)["rougeL"].fmeasure)


def rouge_l_words(answer: str, reference: str) -> float:
    """F-measure over words."""
    return float(scorer(False).score(reference, answer)["rougeL"].fmeasure)


def edit_similarity(answer: str, reference: str) -> float:
    """rapidfuzz's normalised similarity of insertions and deletions, outer white space of both aside."""
    from rapidfuzz.distance import Indel

    return float(Indel.normalized_similarity(answer.strip(), reference.strip()))


def code_similarity(answer: str, reference: str) -> float:
    """`edit_similarity` of code whose literals are filled in."""
    return edit_similarity(parity.filled_in(answer), parity.filled_in(reference))


def bleu(answer: str, references: Sequence[str], _source: str) -> float:
    """sacrebleu's sentence BLEU, effective order, over all references at once."""
    from sacrebleu import sentence_bleu

    return min(1.0, sentence_bleu(answer, list(references), use_effective_order=True).score / 100)


def chrf(answer: str, references: Sequence[str], _source: str) -> float:
    """sacrebleu's sentence chrF."""
    from sacrebleu import sentence_chrf

    return min(1.0, sentence_chrf(answer, list(references)).score / 100)


METRICS: Mapping[str, Metric] = {
    "exact_match": best(exact_match),
    "raw_match": best(raw_match),
    "squad_em": best(squad_em),
    "token_f1": best(token_f1),
    "rouge_l": best(rouge_l),
    "rouge_l_words": best(rouge_l_words),
    "edit_similarity": best(edit_similarity),
    "sari": sari,
    "bleu": bleu,
    "chrf": chrf,
    "first_character": best(first_character),
    "number_match": best(number_match),
    "code_similarity": best(code_similarity),
    "superni_exact_match": best(parity.superni_exact_match),
    "superni_rouge_l": best(parity.superni_rouge_l),
    "trace_match": best(parity.trace_match),
    "trace_first_character": best(parity.trace_first_character),
    "trace_rouge_l": best(parity.trace_rouge_l),
    "trace_edit_similarity": best(parity.trace_edit_similarity),
    "trace_sari": parity.trace_sari,
}
