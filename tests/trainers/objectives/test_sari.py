"""SARI by hand, and against the figure that `evaluate` prints."""

import pytest

from trainers.objectives.metrics import METRICS


def test_sari_is_that_of_evaluate() -> None:
    """The example of `evaluate`'s own documentation, and one by hand that tells both ways to count apart."""
    references = ["About 95 species are currently known .", "About 95 species are now accepted .",
                  "95 species are now accepted ."]  # fmt: skip
    source = "About 95 species are currently accepted ."
    assert METRICS["trace_sari"]("About 95 you now get in .", references, source) == pytest.approx(0.26953601953601954)
    # one word each: all kept. Two of a, b kept of a, a, b: recall 2/3 by counts, (1/2 + 1)/2 per word.
    by_count, per_word = (METRICS[name]("a b", ["a a b"], "a a b") for name in ("trace_sari", "sari"))
    ones = {"trace_sari": 2 * 1 * (2 / 3) / (5 / 3), "sari": 2 * 1 * (3 / 4) / (7 / 4)}
    assert per_word - by_count == pytest.approx((ones["sari"] - ones["trace_sari"]) / 12 + (2 / 3 - 2 / 3) / 12)
    assert (
        METRICS["trace_sari"]("Go on.", ["go on ."], "go on.") == 1 > METRICS["sari"]("Go on.", ["go on ."], "go on.")
    )
