"""What an exception on a worker says: whether a retry may help, what the worker was doing, and in which line."""

import errno
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from ray.exceptions import RayError, RayTaskError

from cluster.errors import OrthoplexError, TrainingError
from trainers.messages import Failed

Verdict = Literal["final", "lost", "out_of_memory"]
MEMORY = re.compile(r"can(?:'t|not) allocate memory|out of memory|not enough memory|_STATUS_ALLOC_FAILED", re.I)
PEERS = re.compile(
    r"\bgloo|groupgloo|nccl|connection (?:closed|reset|refused|timed out)|broken pipe|socket timeout", re.I
)
DEVICE = re.compile(
    r"^cu(?:da|blas|dnn).*(?:\becc\b|unspecified launch failure|illegal memory access|hardware|unavailable"
    r"|unknown error|no cuda-capable device|not yet initialized"
    r"|_STATUS_(?:EXECUTION_FAILED|NOT_INITIALIZED|INTERNAL_ERROR))",
    re.I,
)
MACHINE = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EROFS, errno.ENFILE, errno.EMFILE, errno.ENODEV}
MACHINE |= {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}
FRAME = re.compile(r'File "(.+)", line (\d+), in (\S+)')
WRAPPERS = {"torch", "deepspeed"}  # packages which only carry out what other code asks for
TEXT_CHARACTERS, TRACEBACK_CHARACTERS = 300, 20_000


def judge(error: BaseException) -> Verdict:
    """Whether a retry may help. The type decides first; messages count only for types that PyTorch raises for anything.

    out_of_memory   MemoryError, torch.OutOfMemoryError, ENOMEM, and the messages of allocators, CUDA and cuBLAS. Fewer
                    rows at once may fit.
    lost            The environment failed, and a new worker group may succeed. Another rank is gone or silent
                    (torch.distributed's errors, RuntimeErrors of gloo and NCCL, broken connections, time-outs). Ray
                    lost an object, an actor or a node. A disk or network failed (OSError). A GPU failed (ECC, launch
                    failure, illegal memory access, cuBLAS or cuDNN that cannot execute). A faulty kernel may look like
                    a failed GPU; it is then retried a few times in vain.
    final           All else: code, model and data are the same next time. A device-side assert is final, since the
                    model used an index that does not exist. Every OrthoplexError is final, since stores have waited
                    for long enough by then.

    An error raised while an error of the environment was handled counts as the environment's too. What a Ray task
    raised is judged as if it had been raised here.
    """
    if isinstance(error, OrthoplexError):
        return "final"
    own = _own(error)
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return judge(before) if own == "final" and before is not None else own


def _own(error: BaseException) -> Verdict:
    """The verdict on the error alone, without its cause and context."""
    if isinstance(error, RayTaskError) and error.cause is not error:
        return judge(error.cause)
    if isinstance(error, RayError):
        return "lost"
    text = str(error)
    spoken = type(error) is RuntimeError or isinstance(error, OSError | dist.DistError | torch.AcceleratorError)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (spoken and MEMORY.search(text)):
        return "out_of_memory"
    if isinstance(error, dist.DistError | ConnectionError | TimeoutError):
        return "lost"
    if isinstance(error, OSError):
        return "lost" if error.errno in MACHINE else "final"
    return "lost" if spoken and (PEERS.search(text) or DEVICE.search(text.split("\n", 1)[0])) else "final"


@contextmanager
def during(phase: str) -> Iterator[None]:
    """Marks an exception that leaves the block with this phase, unless an inner block has marked it already."""
    try:
        yield
    except Exception as error:
        error.__dict__.setdefault("phase", phase)
        raise


@contextmanager
def undone(undo: Callable[[], None]) -> Iterator[None]:
    """Calls `undo` after the block. If the block failed, errors of `undo` are ignored: the first error says more."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            undo()
        raise
    undo()


def place(error: BaseException) -> str:
    """`file:line, function` of the deepest frame outside torch and DeepSpeed, or of the deepest of all if there is no
    other. For what a Ray task raised it is a remote frame. The file is relative to its entry in `sys.path`."""
    frames = FRAME.findall(trace(error))
    telling = [frame for frame in frames if not WRAPPERS & set(Path(frame[0]).parts)]
    if not frames:
        return "place unknown"
    file, line, function = (telling or frames)[-1]
    roots = [root for root in sys.path if root and file.startswith(f"{root}/")]
    return f"{file[len(max(roots, key=len)) + 1 :] if roots else file}:{line}, {function}"


def trace(error: BaseException) -> str:
    """The error's own traceback as a string, without those of its cause and context."""
    if isinstance(error, RayTaskError):
        return str(error)
    return "".join(traceback.format_exception(type(error), error, error.__traceback__, chain=False))


def final(error: Exception, task: str, rank: int, workers: Literal["restart", "gone"]) -> Failed:
    """The event for an error that is judged `final` and has no message for the user.

    The message says what failed, in which phase and where; the evidence has the traceback. `task` is empty before the
    first order.
    """
    met = error.cause if isinstance(error, RayTaskError) else error
    text = next((line for line in str(met).splitlines() if line.strip()), "")[:TEXT_CHARACTERS]
    phase, where = getattr(error, "phase", "start"), place(error)
    message = (
        f"{task + ': ' if task else ''}rank {rank} failed in {phase}: {type(met).__name__}: {text} ({where}). A retry "
        "would fail in the same way, so there is none; the `fail` entry of the log has the traceback"
    )
    told = trace(error)[-TRACEBACK_CHARACTERS:]
    evidence = {"task": task, "phase": phase, "rank": rank, "place": where, "traceback": told}
    return Failed(message, TrainingError.exit_code, evidence, workers)
