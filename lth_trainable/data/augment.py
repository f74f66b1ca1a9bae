"""Augmentation on the device that holds the data, drawn for a whole epoch from a named stream.

What happens to a picture depends on the stream and on the picture's number in the data, never on the batch that it is
in nor on the order of batches. An augmentation is a gather: every pixel of the result is a pixel of the picture, so
CPU and CUDA give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lth_trainable.errors import bad_value

SHIFT_PART = 8  # shifts reach side // 8 pixels: 4 of 32 as in He et al., 1 of 8


class Draws:
    """The draws of an epoch for n pictures of side x side. Call it on a batch.

    flip (n,) bool: mirrored left to right. dy, dx (n,) int64: the picture, mirrored or not, is then seen through a
    window moved by (dy, dx) pixels. reach: bound of |dy| and |dx|.
    """

    def __init__(
        self,
        flip: npt.NDArray[np.bool_],
        dy: npt.NDArray[np.int64],
        dx: npt.NDArray[np.int64],
        *,
        side: int,
        reach: int,
        device: Any = "cpu",
    ) -> None:
        self.flip, self.dy, self.dx, self.side, self.reach = flip, dy, dx, side, reach
        # Where each row and column of a window comes from, for every possible shift; columns of mirrored pictures are
        # the second half. Two tables and not one of whole pictures, which at 64 x 64 falls out of the cache.
        shifts = np.arange(-reach, reach + 1)
        source = _reflect(np.arange(side) + shifts[:, None], side)
        self._rows = torch.from_numpy(source * side).to(device)
        self._columns = torch.from_numpy(np.concatenate([source, side - 1 - source])).to(device)
        self._row_of = torch.from_numpy(dy + reach).to(device)
        self._column_of = torch.from_numpy(dx + reach + flip * len(shifts)).to(device)

    def to(self, device: Any) -> Draws:
        """The same draws for batches on `device`."""
        return Draws(self.flip, self.dy, self.dx, side=self.side, reach=self.reach, device=device)

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """The augmented batch (batch, c, side, side), new and contiguous.

        x: the batch, already gathered. index (batch,) int64: the pictures' numbers in the data.
        """
        batch, channels, height, width = x.shape
        if not height == width == self.side:
            raise ValueError(f"pictures of {height}x{width} for draws of {self.side}x{self.side}")
        rows = self._rows.index_select(0, self._row_of.index_select(0, index))
        columns = self._columns.index_select(0, self._column_of.index_select(0, index))
        pixels = (rows.unsqueeze(2) + columns.unsqueeze(1)).view(batch, 1, -1)
        return x.flatten(2).gather(2, pixels.expand(-1, channels, -1)).view(x.shape)


def _reflect(position: npt.NDArray[np.int64], side: int) -> npt.NDArray[np.int64]:
    """Positions beyond an edge, mirrored at the edge pixel, which is not repeated (torch's `reflect` padding)."""
    folded = np.abs(position)
    return np.where(folded >= side, 2 * (side - 1) - folded, folded)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is drawn. flips: mirrored left to right with probability 1/2. shifts: by up to an eighth of the side.

    He et al. (arXiv 1512.03385, sec. 4.2) pad 4 pixels on each side of 32 and take a random crop of the padded picture
    or of its mirror image. They pad with zeros; here, as in airbench (Jordan, arXiv 2404.00498), the padding is the
    picture's reflection, for in normalised data zero is a grey that no background has.
    """

    flips: bool = False
    shifts: bool = False

    @property
    def smallest_side(self) -> int:
        """Pictures must have this many pixels a side, or nothing would happen to them."""
        return SHIFT_PART if self.shifts else 2

    def draw(self, n: int, side: int, stream: np.random.Generator, device: Any = "cpu") -> Draws:
        """An epoch's draws for n pictures of side x side, on `device`; `stream` is the epoch's own.

        Every augmentation draws the same numbers and uses its own, so the flips of `flip_shift` are those of `flip`.
        """
        if side < self.smallest_side:
            raise bad_value("augment", side, f"pictures of at least {self.smallest_side} pixels a side")
        reach = side // SHIFT_PART if self.shifts else 0
        flip = stream.random(n) < 0.5
        dy, dx = (np.floor(stream.random(n) * (2 * reach + 1)).astype(np.int64) - reach for _ in range(2))
        return Draws(flip & self.flips, dy, dx, side=side, reach=reach, device=device)


AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": Augmentation(flips=True),
    "shift": Augmentation(shifts=True),
    "flip_shift": Augmentation(flips=True, shifts=True),
}
