"""`orthoplex.plan`'s result. It comes with torch, so that it stands apart from other results."""

from orchestrator.run.plan import Plan
from orthoplex.shown import as_html


class Planned(Plan):
    """What a run would do."""

    def _repr_html_(self) -> str:
        from orchestrator.console.run import print_plan

        return as_html(lambda: print_plan(self))
