"""What one slot of a stack is to train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lth_trainable.data.augment import Draws


class NotStackable(Exception):
    """Networks that cannot be trained as one; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Batches that one member wants trained.

    order: (sum of sizes,) int64, indices into the training split. sizes: number of images of each batch; that of the
    loader, but the last may be smaller. draws: the augmentation of the epoch. rates: learning rate of each batch.
    seeds: of dropout, for each batch. marks: after how many batches the validation split is measured, and whether the
    weights there are kept, if their loss is less than `lowest` and than at every such mark before.
    """

    order: Tensor
    sizes: tuple[int, ...]
    draws: Draws | None
    rates: tuple[float, ...]
    seeds: Sequence[int] | npt.NDArray[np.int64]
    marks: Mapping[int, bool] = field(default_factory=dict)
    lowest: float = math.inf

    def __post_init__(self) -> None:
        found = len(self.order), len(self.rates), len(self.seeds)
        if found != (sum(self.sizes), len(self.sizes), len(self.sizes)):
            raise ValueError(f"run: found {found} images, rates and seeds; expected those of batches of {self.sizes}")

    def split(self, n: int) -> tuple[Run, Run]:
        """The first n batches, and the others."""
        images = sum(self.sizes[:n])
        first = replace(
            self, order=self.order[:images], sizes=self.sizes[:n], rates=self.rates[:n], seeds=self.seeds[:n],
            marks={batch: keep for batch, keep in self.marks.items() if batch <= n},
        )  # fmt: skip
        rest = replace(
            self, order=self.order[images:], sizes=self.sizes[n:], rates=self.rates[n:], seeds=self.seeds[n:],
            marks={batch - n: keep for batch, keep in self.marks.items() if batch > n},
        )  # fmt: skip
        return first, rest
