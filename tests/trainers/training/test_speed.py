"""Tokens per second are those since the last reading."""

import math

import pytest
import torch

from trainers.training import speed
from trainers.training.speed import Speed, gpu_bytes


def test_tokens_since_the_last_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([102.0, 102.5])
    monkeypatch.setattr(speed.time, "monotonic", lambda: next(times))
    made = Speed(since=100.0)
    made.add(300), made.add(100)
    assert made.read() == 200.0 and made.read() == 0.0


def test_a_cpu_has_no_gpu_memory() -> None:
    assert math.isnan(gpu_bytes(torch.device("cpu")))
