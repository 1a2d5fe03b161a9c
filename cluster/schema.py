"""The base of every configuration model, and how a configuration that is stored is read by a later Orthoplex."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

STORED = {"orthoplex": "stored"}  # the context in which what is stored is read
NEW = {"orthoplex": "new"}  # the context in which a configuration for a new run is written
WHOLE = {"orthoplex": "whole"}  # the context in which every key is written


class Frozen(BaseModel):
    """A configuration section: immutable, unknown keys rejected, NaN and infinity rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def stored(cls, content: Any) -> Self:
        """The section as it was when `content` was stored, see `Grown`. Raises ValidationError."""
        return cls.model_validate(content, context=STORED)

    @classmethod
    def default_of(cls, key: str) -> Any:
        """The value of a key that is not given."""
        return cls.model_fields[key].get_default(call_default_factory=True)

    def going_on(self, stored: Mapping[str, Any]) -> Self:
        """The section for a run that goes on, of which `stored` is in the log: a key that neither gives has the value
        that it had before the key was there, whatever its default is for new runs."""
        return self.model_copy(update={key: _going_on(value, stored.get(key)) for key, value in self})


class Grown(Frozen):
    """A section that got keys after runs were stored with it.

    If a stored section lacks one of the `added` keys, the key has the value that changes nothing: that of `before` if
    the key is there, else its default. In turn an `added` key with this value is left out of what is stored, so that
    stored runs and new ones compare equal. So the default of an added key can be any other value, for new runs only.
    What is written in the context `NEW` leaves out defaults instead, in the context `WHOLE` nothing.
    """

    added: ClassVar[tuple[str, ...]] = ()
    before: ClassVar[dict[str, Any]] = {}

    @classmethod
    def as_before(cls, key: str) -> Any:
        """The value of an `added` key in a stored section that lacks it."""
        default = cls.default_of(key)
        if key in cls.before or not isinstance(default, Grown):
            return cls.before.get(key, default)
        return default.model_copy(update=default.before)

    def going_on(self, stored: Mapping[str, Any]) -> Self:
        """See `Frozen`."""
        absent = {key for key in self.added if key not in stored}
        begun = self.model_copy(update={key: self.as_before(key) for key in absent - self.model_fields_set})
        return super(Grown, begun).going_on({**{key: {} for key in absent}, **stored})

    @model_validator(mode="before")
    @classmethod
    def _with_added(cls, content: Any, info: ValidationInfo) -> Any:
        if info.context != STORED or not isinstance(content, Mapping):
            return content
        return {**{key: cls.as_before(key) for key in cls.added}, **content}

    @model_serializer(mode="wrap")
    def _without_added(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        silent = self.default_of if info.context == NEW else self.as_before
        kept = {key for key in self.added if info.context == WHOLE or getattr(self, key) != silent(key)}
        return {key: value for key, value in written.items() if key not in self.added or key in kept}


def _going_on(value: Any, stored: Any) -> Any:
    """A key's value for a run that goes on: sections, and lists of them, see `Frozen.going_on`; others as they are."""
    if isinstance(value, Frozen) and isinstance(stored, Mapping):
        return value.going_on(stored)
    if isinstance(value, tuple) and isinstance(stored, Sequence):
        before = [*stored, *[None] * (len(value) - len(stored))]
        return tuple(map(_going_on, value, before[: len(value)]))
    return value
