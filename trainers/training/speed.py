"""How fast a task trains, and what memory it takes: read at each row of its log."""

import time
from dataclasses import dataclass, field

import torch


@dataclass
class Speed:
    """Tokens per second since the last reading, over all ranks, padding left out."""

    tokens: int = 0
    since: float = field(default_factory=time.monotonic)

    def add(self, tokens: int) -> None:
        """So many tokens were trained on."""
        self.tokens += tokens

    def read(self) -> float:
        """Tokens per second; counting begins anew."""
        tokens, before = self.tokens, self.since
        self.tokens, self.since = 0, time.monotonic()
        return tokens / max(self.since - before, 1e-9)


def gpu_bytes(device: torch.device) -> float:
    """The most memory that this process has had on its GPU so far, in bytes; NaN on a CPU."""
    return float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else float("nan")
