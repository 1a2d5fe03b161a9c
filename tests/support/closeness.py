"""How close two trainings of the same steps are to be, if they add up the same numbers in another order."""

import torch
from torch import Tensor

NOISE = {torch.float32: 2**-18, torch.bfloat16: 2**-8}


def assert_moved_alike(found: Tensor, expected: Tensor, start: Tensor, dtype: torch.dtype) -> None:
    """Two results of Adam from the same start differ by no more than the rounding of their gradients explains.

        |found - expected| / |expected - start| <= 2 sqrt(e)                  Frobenius norms
        share of values that differ by more than sqrt(e) s <= 2 sqrt(e)       s = rms of expected - start

    e is the rounding of a gradient relative to the rms of its dimension (a row of W1, a column of W2). It is NOISE of
    the dtype that the model computes in: 64 units of 2^-24 in float32, one of 2^-8 in bfloat16.

    No bound on the largest difference holds on every CPU. Kernels add in an order that depends on vector width and
    threads, and Adam divides a gradient by its own magnitude: a gradient x, in units of that rms, makes a step that is
    wrong by e / |x|, and by up to 2 steps if x is rounding noise. How many gradients are that small is a matter of the
    model and not of the CPU: the share of |x| < t is about t (measured on MiniLM: 0.8 t to 1.4 t). The mean
    square of min(2, e / |x|) is then 4 e, whose root is the bound on the norm; and e / |x| is above sqrt(e) in a share
    of sqrt(e), half of what is allowed. A wrong term, scale or clipping moves whole tensors by far more.

    Args:
        found, expected, start: one parameter, of equal shape: both results, and what both were before the first step.
        dtype: what the model computes in; the parameters themselves are float32.

    Raises:
        AssertionError: with norm and share, if either is above its bound.
    """
    bound = NOISE[dtype] ** 0.5
    error, change = found - expected, expected - start
    scale = change.square().mean().sqrt()
    norm = float(error.norm() / change.norm())
    share = float((error.abs() > bound * scale).float().mean())
    assert norm <= 2 * bound, f"norm of the difference: {norm:.1e} of the change, at most {2 * bound:.1e}"
    assert share <= 2 * bound, f"share that differs: {share:.1e}, at most {2 * bound:.1e}"
