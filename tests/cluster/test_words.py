"""Words that people type."""

from cluster.words import as_options, did_you_mean, nearest


def test_the_nearest_word() -> None:
    assert nearest("strem", ["stream", "team"]) == "stream" and nearest("x", ["stream"]) is None
    assert did_you_mean("treshold", ["threshold", "weight"]) == "did you mean 'threshold'?"
    assert did_you_mean("x", []) is None
    assert nearest("abcx", ["abyz"], cutoff=0.6) is None and nearest("abcx", ["abyz"], cutoff=0.5) == "abyz"


def test_options() -> None:
    assert as_options(["a=1", "b=2"]) == ["--set", "a=1", "--set", "b=2"] and as_options([]) == []
