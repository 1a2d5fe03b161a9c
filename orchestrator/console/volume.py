"""How much a command says: `-v` more, `-q` only its result and errors."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Volume:
    """What the command in this process was asked for. If both are given, the last one counts."""

    verbose: bool = False
    quiet: bool = False

    def louder(self) -> None:
        """`-v`: tracebacks, a line per logged step, what libraries warn of and what Orthoplex's own loggers say."""
        self.verbose, self.quiet = True, False
        logging.disable(logging.NOTSET)
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("orthoplex").setLevel(logging.INFO)
        warnings.simplefilter("default")

    def lower(self) -> None:
        """`-q`: no progress, no notes, no hints; of libraries errors alone."""
        self.verbose, self.quiet = False, True
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")


volume = Volume()


@contextmanager
def own_volume() -> Iterator[None]:
    """What is asked for within does not outlast the block."""
    before, logger = Volume(volume.verbose, volume.quiet), logging.getLogger("orthoplex")
    level, disabled = logger.level, logger.manager.disable
    with warnings.catch_warnings():
        try:
            yield
        finally:
            volume.verbose, volume.quiet = before.verbose, before.quiet
            logger.setLevel(level)
            logging.disable(disabled)
