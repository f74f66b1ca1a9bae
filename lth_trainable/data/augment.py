"""Augmentation on the device that holds the data, drawn for a whole epoch from a named random stream.

How an image is augmented depends on the stream and on the image's index in the data, not on its batch or on the order
of batches. An augmentation only gathers pixels: every pixel of the result is a pixel of the image, so CPU and CUDA give
the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lth_trainable.errors import bad_value

SHIFT_PART = 8  # shifts of up to side // 8 pixels: 4 of 32 as in He et al., 1 of 8


class Draws:
    """The random draws of one epoch for n images of side x side; calling it augments a batch.

    flip (n,) bool: mirror left to right. dy, dx (n,) int64: after mirroring, move the window on the image by (dy, dx)
    pixels. reach: upper bound of |dy| and |dx|.
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
        # The source of each row and column of a window, for every possible shift; the second half of the columns is for
        # mirrored images. Two small tables, because one table of whole 64 x 64 images would not fit into the cache.
        shifts = np.arange(-reach, reach + 1)
        source = _reflect(np.arange(side) + shifts[:, None], side)
        self._rows = torch.from_numpy(source * side).to(device)
        self._columns = torch.from_numpy(np.concatenate([source, side - 1 - source])).to(device)
        self._row_of = torch.from_numpy(dy + reach).to(device)
        self._column_of = torch.from_numpy(dx + reach + flip * len(shifts)).to(device)

    def to(self, device: Any) -> Draws:
        """The same draws for batches on `device`."""
        return Draws(self.flip, self.dy, self.dx, side=self.side, reach=self.reach, device=device)

    def replace(self, other: Draws) -> None:
        """Take the draws of another epoch, in place, for CUDA graphs that read them."""
        self.flip, self.dy, self.dx = other.flip, other.dy, other.dx
        self._row_of.copy_(other._row_of)
        self._column_of.copy_(other._column_of)

    def repeated(self, k: int) -> Draws:
        """Room for k draws side by side: those of image i in the j-th of them have the index j * n + i."""
        drawn: Any = [np.tile(of_each, k) for of_each in (self.flip, self.dy, self.dx)]
        return Draws(*drawn, side=self.side, reach=self.reach, device=self._rows.device)

    def replace_part(self, j: int, other: Draws) -> None:
        """Take other draws, of the same kind and number of images, as the j-th of those side by side, in place."""
        here = slice(j * len(other.flip), (j + 1) * len(other.flip))
        self.flip[here], self.dy[here], self.dx[here] = other.flip, other.dy, other.dx
        self._row_of[here].copy_(other._row_of)
        self._column_of[here].copy_(other._column_of)

    @property
    def tensors(self) -> list[Tensor]:
        """What a call reads."""
        return [self._rows, self._columns, self._row_of, self._column_of]

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """The augmented batch (batch, c, side, side), new, and laid out as `x` is: contiguous or channels_last.

        x: the batch before augmentation. index (batch,) int64: the images' indices in the data.
        """
        batch, channels, height, width = x.shape
        if not height == width == self.side:
            raise ValueError(f"found images of {height}x{width}; expected {self.side}x{self.side}, like the draws")
        rows = self._rows.index_select(0, self._row_of.index_select(0, index))
        columns = self._columns.index_select(0, self._column_of.index_select(0, index))
        pixels = (rows.unsqueeze(2) + columns.unsqueeze(1)).view(batch, 1, -1)
        if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
            return x.flatten(2).gather(2, pixels.expand(-1, channels, -1)).view(x.shape)
        found = x.permute(0, 2, 3, 1).flatten(1, 2).gather(1, pixels.view(batch, -1, 1).expand(-1, -1, channels))
        return found.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _reflect(position: npt.NDArray[np.int64], side: int) -> npt.NDArray[np.int64]:
    """Mirror positions beyond an edge at the edge pixel, without repeating it (torch's `reflect` padding)."""
    folded = np.abs(position)
    return np.where(folded >= side, 2 * (side - 1) - folded, folded)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A kind of augmentation. flips: mirror with probability 1/2. shifts: shift by up to an eighth of the side.

    He et al. (arXiv 1512.03385, sec. 4.2) pad 4 pixels on each side of 32 and take a random crop of the padded image or
    its mirror image. They pad with zeros. Here, as in airbench (Jordan, arXiv 2404.00498), the padding is the image's
    reflection, because in normalised data zero is a grey that does not match the background.
    """

    flips: bool = False
    shifts: bool = False

    @property
    def smallest_side(self) -> int:
        """Smallest side, in pixels, of images on which the augmentation has an effect."""
        return SHIFT_PART if self.shifts else 2

    def draw(self, n: int, side: int, stream: np.random.Generator, device: Any = "cpu") -> Draws:
        """The draws of one epoch for n images of side x side, on `device`. stream: the random stream of the epoch.

        Every augmentation draws the same numbers and uses those it needs, so `flip_shift` has the flips of `flip`.
        """
        if side < self.smallest_side:
            raise bad_value("augment", side, f"images of at least {self.smallest_side} pixels a side")
        reach = side // SHIFT_PART if self.shifts else 0
        flip = stream.random(n) < 0.5
        dy, dx = (np.floor(stream.random(n) * (2 * reach + 1)).astype(np.int64) - reach for _ in range(2))
        return Draws(flip & self.flips, dy, dx, side=side, reach=reach, device=device)


AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": Augmentation(flips=True),
    "shift": Augmentation(shifts=True),
    "flip_shift": Augmentation(flips=True, shifts=True),
}
