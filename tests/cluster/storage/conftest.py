"""Requests of a store that meet something else than its server."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.storage import S3Store


@pytest.fixture
def intercept(s3: S3Store) -> Iterator[Callable[..., None]]:
    """Called with a list of hooks: each request of an operation meets the next one, then requests pass."""
    events, registered = s3.client.meta.events, []

    def start(hooks: list[Callable[..., Any]], operation: str = "before-send.s3.PutObject") -> None:
        registered.append((operation, lambda **given: hooks.pop(0)(**given) if hooks else None))
        events.register(*registered[-1])

    yield start
    for operation, handler in registered:
        events.unregister(operation, handler)
