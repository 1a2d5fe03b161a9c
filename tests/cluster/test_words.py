"""Words that people type."""

from cluster.words import as_options, brief, did_you_mean, nearest, printable


def test_the_nearest_word() -> None:
    assert nearest("strem", ["stream", "team"]) == "stream" and nearest("x", ["stream"]) is None
    assert did_you_mean("treshold", ["threshold", "weight"]) == "did you mean 'threshold'?"
    assert did_you_mean("x", []) is None
    assert nearest("abcx", ["abyz"], cutoff=0.6) is None and nearest("abcx", ["abyz"], cutoff=0.5) == "abyz"


def test_options() -> None:
    assert as_options(["a=1", "b=2"]) == ["--set", "a=1", "--set", "b=2"] and as_options([]) == []


def test_what_is_cut_and_what_is_escaped() -> None:
    assert brief("abc", 3) == "abc" and brief("abcd", 3) == "ab…"
    assert printable("a\nb ü τ 🙂") == "a\nb ü τ 🙂"
    assert printable("a\x1b[2J\t\x9b\u202e\ud800\r\0") == r"a\x1b[2J\t\x9b\u202e\ud800\r\x00"
    assert nearest("stream" + "x" * 100_000, ["stream"]) is None
