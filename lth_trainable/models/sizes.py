"""The tensors of the project's own networks, counted without torch: how many bytes a stored state will have.

Each function has the arguments of the builder of the same name in `networks.py`. For a user's network nothing is known
before it is built.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from lth_trainable.models.networks import CONV_DENSE, CONV_WIDTHS, narrowed

FLOAT, INT = 4, 8  # bytes
MOMENTS = {"adam": 2, "sgd": 1}  # tensors as large as the parameter that the optimiser keeps for each
COUNTS_STEPS = ("adam",)  # optimisers that also keep one number for each parameter


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """What a network stores. parameters: sizes of what is trained. floats, counters: of norms, not trained."""

    parameters: tuple[int, ...]
    floats: int = 0
    counters: int = 0

    def state_bytes(self, optimizer: str) -> int:
        """Bytes of a state from which training can continue: weights, and what the optimiser keeps for each."""
        weights = sum(self.parameters)
        steps = len(self.parameters) if optimizer in COUNTS_STEPS else 0
        return FLOAT * (weights * (1 + MOMENTS[optimizer]) + steps + self.floats) + INT * self.counters


def lenet_300_100(shape: tuple[int, int, int], n_classes: int, width_pct: float = 100.0) -> Tensors:
    """Weights and biases of three linear layers."""
    sizes = [math.prod(shape), *narrowed((300, 100), width_pct), n_classes]
    return Tensors(parameters=tuple(n for pair in itertools.pairwise(sizes) for n in (math.prod(pair), pair[1])))


def resnet18(shape: tuple[int, int, int], n_classes: int, width_pct: float = 100.0) -> Tensors:
    """Twenty convolutions without biases, each with a batch norm, and a linear layer."""
    return _of_blocks((shape[0], 7), narrowed((64, 64, 128, 256, 512), width_pct), 2, n_classes)


def resnet20(shape: tuple[int, int, int], n_classes: int, width_pct: float = 100.0) -> Tensors:
    """Twenty-one convolutions without biases, two of them shortcuts, each with a batch norm, and a linear layer."""
    return _of_blocks((shape[0], 3), narrowed((16, 16, 32, 64), width_pct), 3, n_classes)


def _of_blocks(first: tuple[int, int], widths: list[int], depth: int, n_classes: int) -> Tensors:
    """A residual network. first: inputs and side of the kernel of the first convolution. See `networks.py`."""
    convolutions = [(first[0], widths[0], first[1]), *_blocks(widths, depth)]
    outputs = [n_out for _, n_out, _ in convolutions]
    weights = [n_in * n_out * side**2 for n_in, n_out, side in convolutions]
    norms = [n for n in outputs for _ in ("weight", "bias")]
    linear = (widths[-1] * n_classes, n_classes)
    return Tensors(parameters=(*weights, *norms, *linear), floats=2 * sum(outputs), counters=len(outputs))


def _blocks(widths: list[int], depth: int) -> Iterator[tuple[int, int, int]]:
    """Inputs, outputs and side of the kernel of each convolution after the first."""
    for number, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        yield from ((n_in, n_out, 3), *[(n_out, n_out, 3)] * (2 * depth - 1))
        if number:
            yield n_in, n_out, 1


def _conv(name: str, shape: tuple[int, int, int], n_classes: int, width_pct: float = 100.0) -> Tensors:
    """Weights and biases of the convolutions of Conv-2, 4 or 6 and of its three linear layers."""
    widths = [n for n in narrowed(CONV_WIDTHS[name], width_pct) for _ in range(2)]
    side = 2 ** len(CONV_WIDTHS[name])
    sizes = [widths[-1] * (shape[1] // side) * (shape[2] // side), *narrowed(CONV_DENSE, width_pct), n_classes]
    convolutions = [(9 * n_in * n_out, n_out) for n_in, n_out in itertools.pairwise((shape[0], *widths))]
    linear = [(n_in * n_out, n_out) for n_in, n_out in itertools.pairwise(sizes)]
    return Tensors(parameters=tuple(itertools.chain(*convolutions, *linear)))


SIZES: dict[str, Callable[..., Tensors]] = {
    "lenet_300_100": lenet_300_100, "resnet18": resnet18, "resnet20": resnet20,
    **{name: partial(_conv, name) for name in CONV_WIDTHS},
}  # fmt: skip


def tensors_of(
    model: str, shape: tuple[int, int, int], n_classes: int, width_pct: float | None = None
) -> Tensors | None:
    """The tensors of a network by name; None for a plug-in."""
    count = SIZES.get(model)
    return None if count is None else count(shape, n_classes, 100.0 if width_pct is None else width_pct)
