"""What was decided automatically, as a value: any entry of a log may carry the decisions that led to it.

It stands on the floor of entries, below everything that decides: guards, retries, promotion, and sweeps.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from orchestrator.log.entry import Entry

Value = int | float | str | None


class Decision(BaseModel):
    """By `rule`, a key of a configuration, `subject` was judged: `measured` against `bound`, with this verdict.

    `subject` is a run after its newest task (`v3`, as versions are named), a task, a trial or a sweep. Verdicts:
    `go_on`, `stop`, `warn`; `retry`, `halve`, `give_up`; `recommend`, `none`. `reason` is for people.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    rule: str
    subject: str
    measured: Value = None
    bound: Value = None
    verdict: str
    reason: str


@dataclass(frozen=True)
class Decided:
    """A decision, and the entry that carries it."""

    entry: Entry
    decision: Decision

    def shown(self) -> dict[str, Value]:
        """As `--json` has it."""
        return {"seq": self.entry.seq, "time": self.entry.time, **self.decision.model_dump()}


def decided(entries: Iterable[Entry]) -> tuple[Decided, ...]:
    """The decisions that entries carry, in order. A malformed one, which a newer version may have written, is left
    out."""
    found = []
    for entry in entries:
        for each in entry.body.get("decisions", ()):
            try:
                found.append(Decided(entry, Decision.model_validate(each)))
            except ValueError:
                continue
    return tuple(found)
