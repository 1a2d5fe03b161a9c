"""`-h`, `-v` and `-q`, which every command has."""

from collections.abc import Iterator
from copy import copy
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from orchestrator.console.volume import volume

if TYPE_CHECKING:
    from typer._click import Command

HELP = {"help_option_names": ["-h", "--help"]}  # a setting of the outermost command, which all below it take over
_both = typer.Typer(add_completion=False, rich_markup_mode=None)


def louder(wanted: bool) -> None:
    """Acts on `-v`."""
    if wanted:
        volume.louder()


def lower(wanted: bool) -> None:
    """Acts on `-q`."""
    if wanted:
        volume.lower()


@_both.command()
def flags(
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", callback=louder, expose_value=False, help="say more, for finding faults")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", callback=lower, expose_value=False, help="only the result, and errors")
    ] = False,
) -> None:
    """A command that has the two options alone."""


def with_flags(command: "Command") -> "Command":
    """The same command; it and all below it take `-v` and `-q`, unless they have such an option of their own."""
    made = typer.main.get_command(_both).params
    for each in below(command):
        taken = {name for parameter in each.params for name in parameter.opts}
        each.params.extend(copy(flag) for flag in made if not taken.intersection(flag.opts))
    return command


def below(command: "Command") -> Iterator["Command"]:
    """The command and all below it."""
    yield command
    for inner in command.commands.values() if isinstance(command, TyperGroup) else ():
        yield from below(inner)
