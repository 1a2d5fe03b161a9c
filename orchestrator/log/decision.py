"""An automatic decision, as a value. Any entry of a log may carry the decisions that led to it.

This module stands on the floor of entries, below everything that decides: guards, retries, promotion and sweeps.
"""

from pydantic import BaseModel, ConfigDict

Value = int | float | str | None


class Decision(BaseModel):
    """The rule `rule`, a key of a configuration, judged `subject`: `measured` against `bound`, with this verdict.

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
