"""Configurations as users write them, and the errors that a message lists."""

from collections.abc import Callable

from orchestrator.config.run import RunConfig

TASK = "{name: a, source: docstrings, task: library}"
BASE = f"name: stream\nadapter: {{target_modules: [output.dense]}}\ntasks: [{TASK}]\n"
Load = Callable[..., RunConfig]


def tasks(*items: str) -> str:
    return f"name: stream\nadapter: {{target_modules: [output.dense]}}\ntasks: [{', '.join(items)}]\n"


def lines(message: str) -> list[str]:
    """The errors listed in a message, whose heading counts them."""
    heading, *listed = message.split("\n")
    assert heading == f"c.yaml: {len(listed)} error{'s' if len(listed) > 1 else ''} in the configuration"
    assert all(line.startswith("  ") for line in listed)
    return [line[2:] for line in listed]
