"""The decisions on one version, for people and other programs."""

from dataclasses import dataclass

from orchestrator.log.decision import Decision, stops
from orchestrator.log.entry import JsonLike


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decisions on a version, `origin` says by whose bounds. `quarantined`: it is none yet, a guard stopped it."""

    ref: str
    task: str
    origin: str
    quarantined: bool
    decisions: tuple[Decision, ...]

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
            "quarantined": self.quarantined,
            "passed": not self.broken,
            "broken": self.broken,
            "unresolved": self.open,
            "decisions": [each.model_dump(mode="json") for each in self.decisions],
        }
