"""What goes wrong with a request, as OpenAI's servers say it: a status, and a body with one error."""

from collections.abc import Collection, Mapping, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cluster.errors import ConfigError
from cluster.words import brief, did_you_mean

INVALID = "invalid_request_error"
MOST = 2_000  # characters of a message, however long what it quotes is


class Problem(Exception):
    """Ends a request with `status`. `kind` and `code` are the words of OpenAI's errors, `param` the key at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        message = brief(message, MOST)
        super().__init__(message)
        self.status, self.message, self.kind, self.code = status, message, kind, code
        self.param = param and brief(param, MOST)
        self.headers = dict(headers or {})

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON of the answer."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def no_key() -> Problem:
    """No API key, or one that is not known."""
    return Problem(
        401, "no API key that is known here: send `Authorization: Bearer KEY`", code="invalid_api_key",
        kind="authentication_error", headers={"www-authenticate": "Bearer"},
    )  # fmt: skip


def too_many(most: int) -> Problem:
    """As many requests are at work as are allowed."""
    return Problem(
        429, f"{most} requests are at work already (max_concurrent); try again in a moment", kind="rate_limit_error",
        code="rate_limit_exceeded", headers={"retry-after": "1"},
    )  # fmt: skip


def too_large(most: int) -> Problem:
    """A body beyond the limit."""
    return Problem(
        413, f"the body has more than {most:,} bytes (max_body_bytes); send fewer texts at once",
        code="request_too_large", headers={"connection": "close"},
    )  # fmt: skip


def asked_wrongly(error: ConfigError) -> Problem:
    """What is wrong with a request by the code below, which names the value and the fix."""
    return Problem(400, str(error), code="invalid_value")


def malformed(error: ValidationError, known: Collection[str]) -> Problem:
    """The first fault of a body; `known` are its keys."""
    first = inmost(error.errors(include_url=False))
    where = path_of(first["loc"])
    param = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        hint = did_you_mean(where, known) or "leave it out"
        return Problem(400, f"{where}: is not known here; {hint}", code="unknown_parameter", param=param)
    message = first["msg"].removeprefix("Value error, ")
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return Problem(400, f"{where}: {message}" if where else message, code=code, param=param)


def inmost(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """The first fault; of a value that may be of several kinds, of the kind that it comes nearest to."""
    same = [each for each in errors if each["loc"][:1] == errors[0]["loc"][:1]]
    return max(same, key=lambda each: len(each["loc"]))


def path_of(places: Sequence[int | str]) -> str:
    """Where a value stands, as code would read it: messages[0].content. Names of kinds, as list[Part], are left out."""
    names = [each for each in places if isinstance(each, int) or (each != "str" and "[" not in each)]
    return "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in names).removeprefix(".")
