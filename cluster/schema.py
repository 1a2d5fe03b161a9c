"""The base of every configuration model."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A configuration section: immutable, unknown keys rejected, NaN and infinity rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
