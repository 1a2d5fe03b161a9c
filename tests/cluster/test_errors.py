"""The exception tree: each class with its exit code, as the module draws it."""

from cluster import errors

EXIT_CODES = {
    "OrthoplexError": 1,
    "ConfigError": 2,
    "DataError": 2,
    "StoreError": 1,
    "KeyAbsentError": 1,
    "ConflictError": 1,
    "IntegrityError": 1,
    "TrainingError": 1,
    "GuardStop": 3,
    "Interrupted": 130,
}


def tree(error: type[errors.OrthoplexError]) -> dict[str, int]:
    codes = {error.__name__: error.exit_code}
    for inner in error.__subclasses__():
        if inner.__module__ == errors.__name__:
            codes |= tree(inner)
    return codes


def test_exit_codes() -> None:
    assert tree(errors.OrthoplexError) == EXIT_CODES
    for name, code in EXIT_CODES.items():  # the tree as the module's docstring draws it
        (line,) = (line for line in (errors.__doc__ or "").splitlines() if f"{name} " in line)
        assert line.split(name)[1].split()[0] == str(code)


def test_messages_are_bounded_and_move_no_cursor() -> None:
    for length in (1_999, 2_000, 2_001, 10**6):
        text = str(errors.StoreError("x" * length))
        assert len(text) == min(length, errors.MOST_CHARACTERS) and text.endswith("x" if length <= 2_000 else "…")
    assert str(errors.ConfigError("a\n  b \x1b[2J\x9b")) == "a\n  b \\x1b[2J\\x9b"
    assert len(str(errors.ConfigError("\x1b" * 2_000))) == errors.MOST_CHARACTERS
