"""The data exchanged with Ray Tune: a trial's configuration, and its report after each task."""

from collections.abc import Mapping
from typing import TypedDict

from pydantic import JsonValue

from orchestrator.sweeps.events import Row
from orchestrator.sweeps.space import Scalar

Report = dict[str, JsonValue]  # a row's figures; with the last one `done`, and `stopped` (why), `quarantined` or `cut`


class TrialConfig(TypedDict):
    """The trial's number, and its point."""

    number: int
    values: dict[str, Scalar]


def row_of(report: Mapping[str, JsonValue] | None) -> Row | None:
    """The row that a report holds; None if it holds none."""
    return Row.model_validate({name: report[name] for name in Row.model_fields}) if report and "aa" in report else None
