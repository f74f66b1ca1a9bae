"""What is removed together: the axes of a weight tensor over which scores are averaged into one score a group.

Axes are named on a convolution's weight (out, in, then the kernel's); a transposed convolution has in and out swapped.
A granularity that names an axis the weight does not have is refused. Averages are taken in float64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lth_trainable.errors import bad_value

# Axes averaged over, by number of dimensions of the weight: 0 out, 1 in, then the kernel's.
_LINEAR: dict[str, tuple[int, ...]] = {"weight": (), "column": (0,), "row": (1,), "layer": (0, 1)}
_CONV1D: dict[str, tuple[int, ...]] = {
    "weight": (),
    "shared_weight": (0,),
    "channel": (1,),
    "kernel": (2,),
    "filter": (1, 2),
    "shared_channel": (0, 1),
    "shared_kernel": (0, 2),
    "layer": (0, 1, 2),
}
_CONV2D: dict[str, tuple[int, ...]] = {
    "weight": (),
    "shared_weight": (0,),
    "channel": (1,),
    "column": (2,),
    "row": (3,),
    "kernel": (2, 3),
    "filter": (1, 2, 3),
    "shared_channel": (0, 1),
    "shared_column": (0, 2),
    "shared_row": (0, 3),
    "vertical_slice": (1, 2),
    "horizontal_slice": (1, 3),
    "shared_vertical_slice": (0, 1, 2),
    "shared_horizontal_slice": (0, 1, 3),
    "shared_kernel": (0, 2, 3),
    "layer": (0, 1, 2, 3),
}
_CONV3D: dict[str, tuple[int, ...]] = {
    "weight": (),
    "shared_weight": (0,),
    "channel": (1,),
    "kernel": (2, 3, 4),
    "filter": (1, 2, 3, 4),
    "shared_channel": (0, 1),
    "shared_kernel": (0, 2, 3, 4),
    "layer": (0, 1, 2, 3, 4),
}
_BY_DIMENSIONS = {2: _LINEAR, 3: _CONV1D, 4: _CONV2D, 5: _CONV3D}

GRANULARITIES: dict[str, tuple[int, ...]] = _CONV2D


def group_axes(granularity: str, n_dims: int, transposed: bool = False, layer: str = "layer") -> tuple[int, ...]:
    """The axes that `granularity` averages over in a weight of `n_dims` dimensions. Raises `UserError`."""
    table = _BY_DIMENSIONS.get(n_dims, {})
    if granularity not in table:
        expected = f"one of {', '.join(table)} for a weight of {n_dims} dimensions"
        raise bad_value(f"granularity of {layer}", granularity, expected)
    axes = table[granularity]
    return tuple(sorted({0: 1, 1: 0}.get(axis, axis) for axis in axes)) if transposed else axes


def group_scores(scores: npt.NDArray[np.floating], axes: tuple[int, ...]) -> npt.NDArray[np.floating]:
    """Mean score of each group in float64, averaged axes kept with size 1; the scores where none is averaged."""
    if not axes:
        return scores
    with np.errstate(invalid="ignore"):  # a group of inf and -inf has the mean NaN, which is refused where it is ranked
        return scores.mean(axis=axes, dtype=np.float64, keepdims=True)
