"""The `adapter` section of a run: the settings of one of all methods there are, which its key `method` names."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from trainers.lowrank_config import AdaloraConfig, EllaConfig, IncrementalLoraConfig, InfloraConfig, OloraConfig
from trainers.method_config import AdapterConfig, EwcConfig, FullConfig, LoraConfig, OsftConfig


def method_named(section: Any) -> str:
    """The method that an `adapter` section names, be it a mapping or validated; `oa` if it names none."""
    return str(section.get("method", "oa") if isinstance(section, Mapping) else getattr(section, "method", "oa"))


AnyMethod = Annotated[
    Annotated[AdapterConfig, Tag("oa")]
    | Annotated[LoraConfig, Tag("lora")]
    | Annotated[IncrementalLoraConfig, Tag("incremental_lora")]
    | Annotated[OloraConfig, Tag("olora")]
    | Annotated[InfloraConfig, Tag("inflora")]
    | Annotated[EllaConfig, Tag("ella")]
    | Annotated[AdaloraConfig, Tag("adalora")]
    | Annotated[FullConfig, Tag("full")]
    | Annotated[EwcConfig, Tag("ewc")]
    | Annotated[OsftConfig, Tag("osft")],
    Discriminator(method_named),
]
