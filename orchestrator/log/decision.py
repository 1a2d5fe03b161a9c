"""An automatic decision, as a value. Any entry of a log may carry the decisions that led to it.

This module stands on the floor of entries, below everything that decides: guards, retries, promotion and sweeps.
"""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, JsonValue, SerializerFunctionWrapHandler, model_serializer

Value = int | float | str | None


class Decision(BaseModel):
    """The rule `rule`, a key of a configuration, judged `subject`: `measured` against `bound`, with this verdict.

    `subject` is a run after its newest task (`v3`, as versions are named), a task, a trial or a sweep. Verdicts:
    `go_on`, `stop`, `warn`; `retry`, `halve`, `give_up`; `recommend`, `none`; `override`. `reason` is for people.
    `limits` are there if noise was taken into account: the one-sided limits of what was measured.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    rule: str
    subject: str
    measured: Value = None
    bound: Value = None
    verdict: str
    reason: str
    limits: tuple[float, float] | None = None

    @property
    def open(self) -> bool:
        """Whether what was measured may be on either side of the bound."""
        return (
            self.limits is not None
            and isinstance(self.bound, int | float)
            and self.limits[0] < self.bound < self.limits[1]
        )

    @model_serializer(mode="wrap")
    def _without_limits(self, write: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        written: dict[str, JsonValue] = write(self.model_copy(update={"limits": None}))
        kept = {key: value for key, value in written.items() if key != "limits"}
        return {**kept, "limits": [*self.limits]} if self.limits else kept


def stops(decisions: Iterable[Decision]) -> list[str]:
    """The reasons of those that say `stop`."""
    return [each.reason for each in decisions if each.verdict == "stop"]
