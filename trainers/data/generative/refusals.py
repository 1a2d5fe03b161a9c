"""Why a row is not trained on: the kinds of refusals, and what is said of rows that are too long."""

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
    """Rows longer than `max_length`, which would have to be `needed` tokens; `others` is what helps beside that."""

    def __init__(self, found: str, kind: str, needed: int, others: str) -> None:
        super().__init__(found, kind)
        self.found, self.others = found, others
        self.need(needed)

    def need(self, tokens: int, positions: int | None = None) -> Self:
        """The error, which asks for this `max_length`, unless it is beyond the model's `positions`, if they are
        known."""
        fits = positions is None or tokens <= positions
        raised = f"set the task's max_length to {tokens} or more, " if fits else ""
        beyond = "" if fits else f", and {tokens} tokens are beyond the model's {positions} positions"
        others = self.others if fits else self.others.removeprefix("or ")
        self.needed, self.args = tokens, (f"{self.found}{beyond}; {raised}{others}",)
        return self
