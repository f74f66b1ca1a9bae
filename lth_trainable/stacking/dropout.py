"""Dropout whose mask is a function of a seed, not of a stream: it does not depend on who else is in the stack.

The mask of an element is a hash of the seed of the member's batch, the number of the dropout in the step, and the index
of the element in the member's own tensor. The hash is SplitMix64 (Steele et al., OOPSLA 2014, fig. 17) in plain integer
operations, so a CPU and a GPU give the same mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_STEP = 0x9E3779B97F4A7C15 - (1 << 64)  # as signed 64-bit numbers, which is what torch multiplies
_NEXT_CALL = 0xD1342543DE82EF95  # any odd number far from the other
_MIX = (30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64))
_SHARED_AXES = {F.dropout: None, F.dropout1d: 1, F.dropout2d: 2, F.dropout3d: 3}  # last axes that share an element


class SeededDropout(TorchFunctionMode):
    """Within it, `torch.nn.functional.dropout` and its kin for channels draw from a hash. seed: int64 tensor ().

    Enter a new one for each step, because it counts the calls. `calls`: how many of them have drawn.
    """

    def __init__(self, seed: Tensor) -> None:
        super().__init__()
        self.seed, self.calls = seed, 0

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own = self.handler(func)
        return (func if own is None else own)(*args, **(kwargs or {}))

    def handler(self, func: Callable[..., Any]) -> Callable[..., Any] | None:
        """What to call in place of a function of torch; None: the function itself."""
        if func not in _SHARED_AXES:
            return None
        shared = _SHARED_AXES[func]

        def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
            if not training or p == 0:
                return input
            if not 0 <= p <= 1:
                raise ValueError(f"dropout: found the probability {p}; expected 0 to 1")
            self.calls += 1
            shape = input.shape if shared is None else (*input.shape[: input.ndim - shared], *(1,) * shared)
            kept = keep(self.seed, self.calls, shape, p)
            factor = kept.to(input.dtype) * (0.0 if p == 1 else 1 / (1 - p))
            return input.mul_(factor) if inplace else input * factor

        return dropout


def keep(seed: Tensor, call: int, shape: tuple[int, ...], p: float) -> Tensor:
    """Which elements stay, each with probability 1 - p: bool of this shape. seed: int64 (), may be one of a vmap."""
    index = torch.arange(math.prod(shape), device=seed.device).bitwise_xor_(0)  # a compiler sees no product to work out
    index = index.mul_(_STEP).view(shape)
    key = _mixed(seed + _signed(call * _NEXT_CALL))
    threshold = min(-(1 << 63) + round(p * (1 << 64)), (1 << 63) - 1)
    return _mixed(index + key) >= threshold


def _mixed(z: Tensor) -> Tensor:
    """SplitMix64's mixing of numbers, without its last shift, which only changes the lower half."""
    for shift, factor in _MIX:
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return z


def _signed(number: int) -> int:
    """The number modulo 2^64, between -2^63 and 2^63 - 1."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
