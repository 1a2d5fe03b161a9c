"""SARI = (F_keep + F_add + P_delete) / 3, each the mean over 1 to 4 words.

Xu et al., 2016, eq. 1 to 6, as published code counts them: n-grams are weighed by the share of references that have
them.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

ORDERS = (1, 2, 3, 4)


def sari(answer: str, references: Sequence[str], source: str) -> float:
    """Of words as white space divides them, in lower case."""
    return of_words([text.lower().split() for text in (source, answer, *references)])


def of_words(texts: Sequence[Sequence[str]], *, by_count: bool = False) -> float:
    """SARI of the words of source, answer and references. `by_count`: the recall of what is kept is a share of all
    n-grams that should be; else it is the mean of the share per n-gram."""
    parts = [sari_of(*(grams(words, order) for words in texts), by_count=by_count) for order in ORDERS]
    return sum(map(sum, parts)) / (3 * len(ORDERS))


def grams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    """How often each sequence of `order` words occurs."""
    return Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))


def sari_of(
    source: Counter[Any], answer: Counter[Any], *references: Counter[Any], by_count: bool
) -> tuple[float, float, float]:
    """F of what was kept, F of what was added, precision of what was deleted, for one order."""
    count = len(references)
    wanted = sum(references, Counter())
    source, answer = times(source, count), times(answer, count)
    kept, right_kept, all_kept = source & answer, source & answer & wanted, source & wanted
    keep_precision = ratio(sum(n / kept[gram] for gram, n in right_kept.items()), len(kept))
    each = ratio(sum(n / all_kept[gram] for gram, n in right_kept.items()), len(all_kept))
    keep_recall = ratio(right_kept.total(), all_kept.total()) if by_count else each
    deleted = source - answer
    right_deleted = deleted - wanted
    delete = ratio(sum(n / deleted[gram] for gram, n in right_deleted.items()), len(deleted))
    added = set(answer) - set(source)
    right_added, all_added = added & set(wanted), set(wanted) - set(source)
    add = harmonic(ratio(len(right_added), len(added)), ratio(len(right_added), len(all_added)))
    return harmonic(keep_precision, keep_recall), add, delete


def times(counts: Counter[Any], factor: int) -> Counter[Any]:
    """Every count times `factor`."""
    return Counter({gram: n * factor for gram, n in counts.items()})


def ratio(part: float, whole: float) -> float:
    """part / whole; 1 if there was nothing to do."""
    return part / whole if whole else 1.0


def harmonic(precision: float, recall: float) -> float:
    """2PR / (P + R), 0 if both are."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
