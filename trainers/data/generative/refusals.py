"""Why a row is not trained on: the kinds of refusals, and what is said of rows that are too long."""

from collections.abc import Sequence
from typing import Self

from cluster.errors import DataError

SHORTEN = (  # the fix for rows that are too long, beside a larger max_length
    "remove the row, or set too_long to drop or cut, and max_cut to the share of answers that may lose their end "
    "(0.01 unless set)"
)
REFUSALS = (
    "nothing_trained",  # a row without a trained token
    "everything_trained",  # every token trained although only answers were asked for
    "end_untrained",  # a trained turn whose end token is not trained
    "two_beginnings",  # two BOS tokens
    "prompt_no_prefix",  # the prompt's tokens are not the first of the row's
    "answer_cut",  # an answer cut away by max_length
    "prompt_cut",  # an encoder-decoder's prompt that is longer than max_length
    "template",  # a role, turn or conversation that the chat template cannot write
    "unknown_token",  # an id beyond the model's vocabulary
)


class Refused(DataError):
    """A row that is not trained on; `kind` is one of REFUSALS. `evidence` counts refused rows by kind."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class TooLong(Refused):
    """Rows longer than `max_length`, which would have to be `needed` tokens; `share` is what `max_cut` would have to
    be, None if that alone does not help."""

    def __init__(self, found: str, kind: str, needed: int, share: float | None = None) -> None:
        super().__init__(found, kind)
        self.found = found
        self.need(needed, share=share)

    def need(self, tokens: int, positions: int | None = None, share: float | None = None) -> Self:
        """The error, which asks for this `max_length`, unless it is beyond the model's `positions`, if they are known;
        or for this `max_cut`."""
        fits = positions is None or tokens <= positions
        raised = f"set the task's max_length to {tokens} or more, " if fits else ""
        beyond = "" if fits else f", and {tokens} tokens are beyond the model's {positions} positions"
        others = SHORTEN if share is None else f"{'or ' if fits else ''}raise max_cut to {share:g}"
        self.needed, self.share, self.args = tokens, share, (f"{self.found}{beyond}; {raised}{others}",)
        return self


def of_all(errors: Sequence[TooLong]) -> TooLong:
    """One of the errors, with advice that helps against all of them."""
    first = next((each for each in errors if each.share is None), errors[0])
    shares = [each.share for each in errors if each.share is not None]
    return first.need(max(each.needed for each in errors), share=None if first.share is None else max(shares))
