"""Which tasks and layers a screen shows, and how many layers become few rows."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cluster.errors import ConfigError
from cluster.words import did_you_mean
from orchestrator.track.events import Committed
from orchestrator.track.state import RunState

MOST_LAYERS = 30  # rows of a table; of more layers, those of a kind become one row
NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)")


@dataclass(frozen=True)
class View:
    """The part of a run that is asked for: tasks by name, all if none is named, and the layers whose names contain
    `module`, or match it if it has one of *?[."""

    tasks: Sequence[str] = ()
    module: str | None = None

    def indices(self, state: RunState) -> list[int]:
        """The tasks, from 0. Raises ConfigError if the run has no task of a name."""
        known = [task.name for task in state.tasks]
        for name in self.tasks:
            if name not in known:
                hint = did_you_mean(name, known) or f"it has {', '.join(known) or 'none'}"
                raise ConfigError(f"--task {name!r}: {state.label} has no such task; {hint}")
        return [index for index, name in enumerate(known) if not self.tasks or name in self.tasks]

    def commits(self, state: RunState) -> list[Committed]:
        """The commits of the tasks; a commit of all at once is every task's. Raises ConfigError as `indices`."""
        asked = {index + 1 for index in self.indices(state)}
        return [each for each in state.commits if state.joint or each.version in asked]

    def layers(self, names: Iterable[str]) -> list[str]:
        """The layers among these, each once. Raises ConfigError if there are some, and none is asked for."""
        known = [*dict.fromkeys(names)]
        if self.module is None:
            return known
        pattern = self.module if any(sign in self.module for sign in "*?[") else f"*{self.module}*"
        found = [name for name in known if fnmatchcase(name, pattern)]
        if known and not found:
            raise ConfigError(f"--module {self.module!r}: no adapted layer is called so; one is {known[0]}")
        return found

    def rows(self, names: Iterable[str]) -> dict[str, list[str]]:
        """The rows of a table of layers, each with its layers: one per layer, or per kind if there are more than
        MOST_LAYERS and none is asked for."""
        layers = self.layers(names)
        return {name: [name] for name in layers} if self.module or len(layers) <= MOST_LAYERS else kinds(layers)


ALL = View()


def kinds(layers: Iterable[str]) -> dict[str, list[str]]:
    """Layers by their names without numbers, as `encoder.layer.*.output.dense (×12)`."""
    found: dict[str, list[str]] = {}
    for name in layers:
        found.setdefault(NUMBER.sub("*", name), []).append(name)
    return {f"{kind} (×{len(each)})" if len(each) > 1 else each[0]: each for kind, each in found.items()}
