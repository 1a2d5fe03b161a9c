"""The decisions on one version, for people and other programs."""

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.log.decision import Decision, stops
from orchestrator.log.entry import JsonLike


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decisions on a version, `origin` says by whose bounds. `quarantined`: it is none yet, a guard stopped it.
    What they compare was measured on the rows of `split`. `notes` say what did not go as was asked."""

    ref: str
    task: str
    origin: str
    quarantined: bool
    decisions: tuple[Decision, ...]
    notes: tuple[str, ...] = ()
    split: ClassVar[str] = "validation"

    @property
    def broken(self) -> list[str]:
        """Why it does not pass; empty if it does."""
        return stops(self.decisions)

    @property
    def open(self) -> list[str]:
        """What the rows at hand cannot resolve."""
        return [each.reason for each in self.decisions if each.open]

    def shown(self) -> dict[str, JsonLike]:
        """The form that `gate --json` prints."""
        return {
            "ref": self.ref,
            "task": self.task,
            "rules": self.origin,
            "split": self.split,
            "quarantined": self.quarantined,
            "passed": not self.broken,
            "broken": self.broken,
            "unresolved": self.open,
            "notes": [*self.notes],
            "decisions": [each.model_dump(mode="json") for each in self.decisions],
        }
