"""The result of a sweep: the Pareto front, and the point recommended by the rule set beforehand.

Pure functions of finished trials. A trial is judged by its last row: AA up, active parameters down, BWT as a bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.gates.bounds import TOLERANCE
from orchestrator.log.decision import Decision
from orchestrator.sweeps.config import ChoiceConfig
from orchestrator.sweeps.events import Row
from orchestrator.sweeps.sweep_state import SweepTrial
from orchestrator.track.metrics import points

Judged = tuple[SweepTrial, Row]


@dataclass(frozen=True)
class Choice:
    """The numbers of the trials on the front, by parameters, and of the one recommended (None if no trial meets the
    bounds), with the reason in words."""

    pareto: tuple[int, ...]
    recommended: int | None
    reason: str

    def decision(self, sweep: str, trials: Sequence[SweepTrial], rule: ChoiceConfig) -> Decision:
        """The form that a log keeps: the rule's figure of the recommended trial, against the rule's bound."""
        row = next((row for trial, row in judged(trials) if trial.number == self.recommended), None)
        fewest = rule.rule == "fewest_parameters"
        figure = None if row is None else row.aa if fewest else row.parameters
        subject, verdict = (sweep, "none") if row is None else (f"trial {self.recommended}", "recommend")
        return Decision(
            rule=f"choice.{rule.rule}", subject=subject, measured=figure,
            bound=rule.within if fewest else rule.max_parameters, verdict=verdict, reason=self.reason,
        )  # fmt: skip


def dominates(a: Row, b: Row, margin: float = 0.0) -> bool:
    """Whether a keeps no more parameters than b at an AA higher by more than `margin`, or fewer at one higher by
    `margin`."""
    fewer, better = a.parameters <= b.parameters, a.aa > b.aa + margin + TOLERANCE
    return fewer and (better or (a.parameters < b.parameters and a.aa >= b.aa + margin - TOLERANCE))


def judged(trials: Sequence[SweepTrial]) -> list[Judged]:
    """Finished trials with their last rows."""
    return [(trial, trial.last) for trial in trials if trial.status == "finished" and trial.last]


def choose(trials: Sequence[SweepTrial], rule: ChoiceConfig) -> Choice:
    """The front of all finished trials within the bound on BWT, and the point that the rule picks from it."""
    finished = judged(trials)
    within = [each for each in finished if _within(each[1], rule)]
    front = [each for each in within if not any(dominates(other, each[1]) for _, other in within)]
    front = sorted(front, key=lambda each: (each[1].parameters, each[0].number))
    numbers = tuple(trial.number for trial, _ in front)
    if not within:
        return Choice((), None, _none_within(finished, rule))
    number, reason = _picked(front, rule)
    return Choice(numbers, number, f"{reason}{_left_out(finished, front, rule)}")


def _within(row: Row, rule: ChoiceConfig) -> bool:
    return rule.min_bwt is None or row.bwt is None or row.bwt >= rule.min_bwt - TOLERANCE


def unmet(row: Row, rule: ChoiceConfig) -> list[str]:
    """The bounds that a trial breaks, as keys with their values."""
    too_many = rule.max_parameters is not None and row.parameters > rule.max_parameters
    broken = {"min_bwt": not _within(row, rule), "max_parameters": too_many}
    return [f"choice.{key} {getattr(rule, key)}" for key, breaks in broken.items() if breaks]


def _none_within(finished: Sequence[Judged], rule: ChoiceConfig) -> str:
    """Why nothing can be recommended, if no trial is within the bound on BWT."""
    if not finished or rule.min_bwt is None:
        return "no trial has finished all its tasks"
    highest, trial = max((row.bwt or 0.0, -trial.number) for trial, row in finished)
    bound = f"BWT of at least {points(rule.min_bwt, 1)} (choice.min_bwt)"
    return f"none of {len(finished)} finished trials has a {bound}; trial {-trial} is nearest with {points(highest, 1)}"


def _picked(front: Sequence[Judged], rule: ChoiceConfig) -> tuple[int | None, str]:
    """The number picked, and why. The front holds a best AA and, of equals, the one with fewer parameters."""
    best, of_best = max((row.aa, -trial.number) for trial, row in front)
    if rule.rule == "fewest_parameters":
        near = [each for each in front if each[1].aa >= best - rule.within - TOLERANCE]
        trial, row = min(near, key=lambda each: (each[1].parameters, -each[1].aa, each[0].number))
        why = f"fewest parameters ({row.parameters:,}) within {points(rule.within, 1)} of the best AA after all tasks"
        return trial.number, f"{why}: {100 * row.aa:.1f} against {points(best, 1)} of trial {-of_best}"
    most = rule.max_parameters
    small = [each for each in front if most is None or each[1].parameters <= most]
    if not small:
        trial, row = min(front, key=lambda each: each[1].parameters)
        none = f"no trial on the front keeps at most {most:,} parameters (choice.max_parameters)"
        return None, f"{none}; trial {trial.number} keeps fewest with {row.parameters:,}"
    trial, row = max(small, key=lambda each: (each[1].aa, -each[1].parameters, -each[0].number))
    bound = f" with at most {most:,} parameters" if most is not None else ""
    return trial.number, f"best AA ({points(row.aa, 1)}){bound}"


def _left_out(finished: Sequence[Judged], front: Sequence[Judged], rule: ChoiceConfig) -> str:
    """The best finished trial that the rule's bounds leave out, if its AA is above that of all they allow."""
    most = rule.max_parameters
    allowed = [row.aa for _, row in front if most is None or row.parameters <= most]
    trial, row = max(finished, key=lambda each: (each[1].aa, -each[0].number))
    if not allowed or row.aa <= max(allowed):
        return ""
    if not _within(row, rule) and row.bwt is not None and rule.min_bwt is not None:
        why = f"its BWT of {points(row.bwt, 1)} is below choice.min_bwt {rule.min_bwt} ({points(rule.min_bwt, 1)})"
    else:
        why = f"its {row.parameters:,} parameters are above choice.max_parameters {most:,}"
    return f"; trial {trial.number} has an AA of {points(row.aa, 1)} and is left out: {why}"
