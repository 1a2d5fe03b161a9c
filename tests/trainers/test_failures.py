"""Which exceptions of a worker another attempt may mend: real types, and texts that PyTorch, gloo and CUDA give."""

import errno
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions
import torch
import torch.distributed as dist

from cluster.errors import DataError, StoreError, TrainingError
from trainers.failures import during, final, judge, place, undone

PAIR = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] "
SEARCH = (
    "\nCUDA kernel errors might be asynchronously reported. Compile with `TORCH_USE_CUDA_DSA` to see hardware asserts."
)


def raised(act: Callable[[], Any]) -> Exception:
    try:
        act()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def lookup() -> None:
    torch.nn.Embedding(3, 2)(torch.tensor([7]))


MODEL: list[Callable[[], Any]] = [
    lookup,
    lambda: torch.ones(2, 3) @ torch.ones(2, 3),
    lambda: list[int]()[0],
    lambda: {}["absent"],
    lambda: int("x"),
    lambda: len(3),  # type: ignore[arg-type]
    lambda: None.shape,  # type: ignore[attr-defined]
    lambda: torch.tensor([1.0]).requires_grad_().numpy(),
    lambda: torch.linalg.cholesky(-torch.eye(2)),
    lambda: Path("/absent/file").read_bytes(),
    lambda: __import__("absent_module"),
]


@pytest.mark.parametrize("act", MODEL)
def test_what_code_raises_is_final(act: Callable[[], Any]) -> None:
    assert judge(raised(act)) == "final"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError(PAIR + "Connection closed by peer [127.0.0.1]:1234"), "lost"),
        (RuntimeError(PAIR + "Read error [127.0.0.1]:1: Connection reset by peer"), "lost"),
        (RuntimeError("[enforce fail at gloo/transport/tcp/pair.cc] op.preamble.length <= op.nbytes. 8 vs 4"), "lost"),
        (RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv"), "lost"),
        (RuntimeError("Broken pipe"), "lost"),
        (dist.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:1, remote process exited"), "lost"),
        (dist.DistBackendError("Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)"), "lost"),
        (dist.DistNetworkError("The client socket has timed out"), "lost"),
        (dist.DistStoreError("wait timeout after 300000ms, keys: /0"), "lost"),
        (RuntimeError("NCCL communicator was aborted on rank 1"), "lost"),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered" + SEARCH), "lost"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure" + SEARCH), "lost"),
        (torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable" + SEARCH), "lost"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(…)`"), "lost"),
        (torch.AcceleratorError("CUDA error: device-side assert triggered" + SEARCH), "final"),
        (torch.AcceleratorError("CUDA error: invalid configuration argument" + SEARCH), "final"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (torch.AcceleratorError("CUDA error: out of memory" + SEARCH), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (OSError(errno.EIO, "Input/output error"), "lost"),
        (OSError(errno.ENOSPC, "No space left on device"), "lost"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "lost"),
        (TimeoutError("timed out"), "lost"),
        (PermissionError(errno.EACCES, "Permission denied"), "final"),
        (ray.exceptions.ActorDiedError(), "lost"),
        (ray.exceptions.ObjectLostError("", "", ""), "lost"),
        (ray.exceptions.OutOfMemoryError("the node was running low on memory"), "lost"),
        (ValueError("the NCCL of this text is out of memory"), "final"),
        (AssertionError("gloo"), "final"),
        (NotImplementedError("no CUDA kernel, connection closed"), "final"),
        (TrainingError("the loss is nan"), "final"),
        (StoreError("s3: connection refused"), "final"),
        (DataError("absent"), "final"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__}-{str(value)[:40]}",
)  # fmt: skip
def test_judge(error: Exception, expected: str) -> None:
    assert judge(error) == expected


def test_what_a_ray_task_raised_is_judged_by_its_cause() -> None:
    for cause, expected in ((ValueError("bad weights"), "final"), (MemoryError(), "out_of_memory")):
        text = f'Traceback (most recent call last):\n  File "/models/own.py", line 7, in forward\n{cause!r}'
        error = ray.exceptions.RayTaskError("packed", text, cause, "name", 1, "127.0.0.1").as_instanceof_cause()
        assert judge(error) == expected
        assert place(error) == "/models/own.py:7, forward"
        assert type(cause).__name__ in final(error, "", 0, "gone").message


def test_an_error_while_the_environment_s_was_handled_is_the_environment_s() -> None:
    def act(how: str) -> None:
        try:
            raise ConnectionResetError("gone")
        except OSError as error:
            if how == "from":
                raise ValueError("cannot go on") from error
            if how == "none":
                raise ValueError("cannot go on") from None
            raise ValueError("cannot clean up")  # noqa: B904

    assert [judge(raised(lambda how=how: act(how))) for how in ("from", "within", "none")] == ["lost", "lost", "final"]  # type: ignore[misc]


def test_the_event_names_task_phase_rank_and_place() -> None:
    def act() -> None:
        with during("train step 7"), during("train"):
            lookup()

    error = raised(act)
    event = final(error, "task 'kind'", 1, "restart")
    assert event.exit_code == 1 and event.workers == "restart"
    assert "task 'kind': rank 1 failed in train: IndexError: index out of range in self (" in event.message
    assert event.evidence["place"].endswith(f"test_failures.py:{lookup.__code__.co_firstlineno + 1}, lookup")
    assert event.evidence["place"] in event.message and not event.evidence["place"].startswith("/")
    assert "torch/nn/functional.py" in event.evidence["traceback"]
    assert pickle.loads(pickle.dumps(event)) == event


def test_what_tidying_up_meets_does_not_hide_the_error() -> None:
    def fails() -> None:
        raise RuntimeError(PAIR + "Connection closed by peer")

    def act() -> None:
        with undone(fails):
            lookup()

    assert isinstance(raised(act), IndexError) and judge(raised(act)) == "final"
    with pytest.raises(RuntimeError, match="closed by peer"), undone(fails):
        pass
