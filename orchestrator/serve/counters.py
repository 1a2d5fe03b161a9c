"""What a server counts, for Prometheus."""

from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(eq=False)
class Counters:
    """The figures of one replica, each with the prefix `orthoplex_`."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        """Makes them."""
        here = self.registry
        self.requests = Counter("orthoplex_requests", "By path and status", ["path", "status"], registry=here)
        self.seconds = Histogram(
            "orthoplex_request_seconds", "To the end of the answer", ["path"], buckets=SECONDS, registry=here
        )
        self.at_work = Gauge("orthoplex_requests_at_work", "Requests without their whole answer", registry=here)
        self.answers = Counter("orthoplex_answers", "Answered requests by version", ["version"], registry=here)
        self.tokens = Counter("orthoplex_tokens", "Of prompts and of answers", ["kind"], registry=here)
        self.batches = Histogram(
            "orthoplex_batch_items", "Texts or prompts that were answered together", buckets=ITEMS, registry=here
        )
        self.versions = Gauge(
            "orthoplex_versions_in_memory", "Versions that answer, or that requests still need", registry=here
        )
        self.problems = Gauge(
            "orthoplex_adapters_behind", "Adapters whose alias names a version that cannot answer", registry=here
        )

    def watch(self, versions: Callable[[], int], problems: Callable[[], int]) -> None:
        """Has two figures read when they are asked for."""
        self.versions.set_function(versions)
        self.problems.set_function(problems)

    def text(self) -> bytes:
        """All of them in Prometheus' format."""
        return generate_latest(self.registry)
