"""Which weights are removed together: the axes over which scores are averaged into one score for each group.

Axes are those of a convolution's weight (out, in, then the kernel's); in a transposed convolution out and in are
swapped. A granularity is refused for a weight that lacks one of its axes. Averages are computed in float64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lth_trainable.errors import bad_value

# Axes to average over, by number of dimensions of the weight: 0 out, 1 in, then the kernel's.
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
    """The axes that `granularity` averages over in a weight of `n_dims` dimensions.

    Raises `UserError` if such a weight does not have this granularity.
    """
    table = _BY_DIMENSIONS.get(n_dims, {})
    if granularity not in table:
        expected = f"one of {', '.join(table)} for a weight of {n_dims} dimensions"
        raise bad_value(f"granularity of {layer}", granularity, expected)
    axes = table[granularity]
    return tuple(sorted({0: 1, 1: 0}.get(axis, axis) for axis in axes)) if transposed else axes


def group_scores(scores: npt.NDArray[np.floating], axes: tuple[int, ...]) -> npt.NDArray[np.floating]:
    """Mean score of each group in float64, with averaged axes kept at size 1; without axes, the scores themselves."""
    if not axes:
        return scores
    with np.errstate(invalid="ignore"):  # inf and -inf in one group give NaN, which ranking refuses
        return scores.mean(axis=axes, dtype=np.float64, keepdims=True)
