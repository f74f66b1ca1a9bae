"""The memory that each of several processes on a GPU may use. Imports no torch."""

from __future__ import annotations

RESERVED = 3 * 2**28  # bytes of a share for what is not PyTorch's to count: the process's CUDA context, and kernels


def fraction_of(trials: int, total: int) -> float:
    """The fraction of `total` bytes that PyTorch may use in each of so many processes."""
    return 1.0 if trials == 1 else max(0.5 / trials, 1 / trials - RESERVED / total)
