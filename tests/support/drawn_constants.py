"""Networks that draw more than parameters when they are built: `tests.support.drawn_constants:with_WHAT`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

DRAWS: dict[str, Callable[[], object]] = {
    "tensor": lambda: torch.rand(3), "array": lambda: torch.rand(3).numpy(), "number": lambda: float(torch.rand(())),
    "numbers": lambda: [1, torch.rand(3)], "nothing": lambda: [torch.ones(3), {"a": 1}, 0.5],
    "width": lambda: None,
}  # fmt: skip


class WithConstant(nn.Module):
    """A linear network with a constant."""

    def __init__(self, n: int, n_classes: int, what: str) -> None:
        super().__init__()
        self.constant = DRAWS[what]()
        self.width = 8 if what != "width" else 2 + int(torch.randint(1 << 20, ()))
        self.first, self.last = nn.Linear(n, self.width), nn.Linear(self.width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.first(x.flatten(1)))
        return found


def __getattr__(name: str) -> Callable[..., nn.Module]:
    what = name.removeprefix("with_")
    if what not in DRAWS:
        raise AttributeError(name)
    return lambda shape, n_classes: WithConstant(math.prod(shape), n_classes, what)
