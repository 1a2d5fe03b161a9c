"""The exception tree. Each class carries the exit code the command line ends with.

OrthoplexError              1   base of everything raised on purpose
├── ConfigError             2   a configuration key, value or command-line argument is wrong
│   └── DataError           2   a task's data is absent or malformed
├── StoreError              1   the object store cannot be reached, read or written
│   ├── KeyAbsentError      1   no object stands under the key
│   ├── ConflictError       1   another writer committed first
│   └── IntegrityError      1   stored bytes differ from their recorded digest
├── TrainingError           1   a worker failed or training diverged
├── GuardStop               3   a rule set beforehand stopped the run, or the promotion; what was committed stands
└── Interrupted           130   Ctrl-C or SIGTERM; what was committed stands
"""

from typing import Any

from cluster.words import brief, printable, without_user

MOST_CHARACTERS = 2_000  # of a message


class OrthoplexError(Exception):
    """Base class; its message names the key, the value and the fix. `evidence`, JSON, goes into the log of the run or
    sweep that it ends.

    What a message quotes may come from anyone. As a string it has at most `MOST_CHARACTERS` characters, none that a
    terminal would obey, and no user of a URL.
    """

    exit_code = 1
    evidence: dict[str, Any] = {}  # noqa: RUF012

    def __str__(self) -> str:
        return brief(printable(without_user(super().__str__()[: MOST_CHARACTERS + 1])), MOST_CHARACTERS)


class ConfigError(OrthoplexError):
    """A configuration key, value or command-line argument is wrong."""

    exit_code = 2


class DataError(ConfigError):
    """A task's data is absent or malformed."""


class StoreError(OrthoplexError):
    """The object store cannot be reached, read or written."""


class KeyAbsentError(StoreError):
    """No object stands under the key."""


class ConflictError(StoreError):
    """Another writer committed first."""


class IntegrityError(StoreError):
    """Stored bytes differ from their recorded digest."""


class TrainingError(OrthoplexError):
    """A worker failed or training diverged."""


class GuardStop(OrthoplexError):
    """A rule set beforehand stopped the run, or the promotion; what was committed stands."""

    exit_code = 3


class Interrupted(OrthoplexError):
    """Ctrl-C or SIGTERM; what was committed stands."""

    exit_code = 130
