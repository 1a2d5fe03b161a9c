"""The smallest store: objects in this process, under names that any copy of it finds again."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

from cluster.errors import ConfigError, KeyAbsentError
from cluster.storage.interface import Content, Keys, checked, is_key, refuse_larger
from cluster.storage.opening import SCHEMES
from cluster.storage.transfer import filling, reading
from orchestrator.log.entry import digest

OBJECTS: dict[str, dict[str, bytes]] = {}  # of each store, by its name
LOCK = threading.Lock()


class MemoryStore:
    """`memory://NAME`: all stores of a name hold the same objects."""

    def __init__(self, name: str) -> None:
        self.name, self.uri = name, f"memory://{name}"

    @property
    def objects(self) -> dict[str, bytes]:
        return OBJECTS.setdefault(self.name, {})

    def get(self, key: str, most: int | None = None) -> bytes:
        try:
            data = self.objects[checked(key)]
        except KeyError:
            raise KeyAbsentError(f"store {self.uri}: no object {key!r}") from None
        refuse_larger(self.uri, key, len(data), most)
        return data

    def put(self, key: str, data: bytes) -> None:
        with LOCK:
            self.objects[checked(key)] = data

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with LOCK:
            before = len(self.objects)
            self.objects.setdefault(checked(key), data)
            return len(self.objects) > before

    def upload(self, key: str, path: Path) -> Content:
        with reading(path) as source:
            data = source.read()
        self.put(key, data)
        return Content(len(data), digest(data))

    def download(self, key: str, path: Path, most: int | None = None) -> Content:
        data = self.get(key, most)
        with filling(path) as target:
            target.write_at(0, data)
        return Content(len(data), digest(data))

    def list(self, prefix: str, limit: int | None = None) -> Keys:
        beginning = checked(prefix, "prefix")
        return sorted(key for key in [*self.objects] if key.startswith(beginning))[:limit]

    def list_folders(self, prefix: str) -> Keys:
        below = f"{checked(prefix, 'prefix').removesuffix('/')}/".lstrip("/")
        names = {key.removeprefix(below).split("/")[0] for key in self.list(below) if "/" in key.removeprefix(below)}
        return sorted(name for name in names if is_key(name))

    def delete(self, key: str) -> None:
        with LOCK:
            self.objects.pop(checked(key), None)


def opened(uri: str) -> MemoryStore:
    """The store at `memory://NAME`."""
    name = uri.removeprefix("memory://")
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise ConfigError(f"store {uri!r}: use memory://NAME")
    return MemoryStore(name)


def with_memory(set_item: Callable[[object, str, object], None]) -> None:
    """Has `open_store` know the scheme, as long as `set_item` (monkeypatch's `setitem`) lasts."""
    set_item(SCHEMES, "memory", opened)
