"""Criteria: functions that score weights. The weights with the highest scores are kept.

A criterion is `f(weights: Weights) -> tensor` with the shape of the weight. To add one, write the function and enter it
in `CRITERIA`, or pass it to a command as `package.module:function`. Importing this module does not import torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


Criterion = Callable[["Weights"], "Tensor"]
_MARK = "uses_inputs"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One layer's weights as a criterion sees them; all tensors have one shape and device.

    now: at the prune. initial: at initialisation. previous: at the previous prune; at the first prune, the initial
    weights. noise: uniform in [0, 1), a function of the seed, the level and the layer, drawn at first use. inputs: root
    mean square of each input channel over training data, in a shape that multiplies the weight; only for criteria
    marked with `uses_inputs`.
    """

    now: Tensor
    initial: Tensor
    previous: Tensor
    draw: Callable[[], Tensor]
    inputs: Tensor | None = None

    @property
    def noise(self) -> Tensor:
        return self.draw()


def uses_inputs(criterion: Criterion) -> Criterion:
    """Decorator for a criterion that reads `Weights.inputs`: each prune then first passes over some training data."""
    setattr(criterion, _MARK, True)
    return criterion


def needs_inputs(criterion: Criterion) -> bool:
    """Whether the criterion, or the function of a partial, is marked with `uses_inputs`."""
    if isinstance(criterion, functools.partial) and not hasattr(criterion, _MARK):
        return needs_inputs(criterion.func)
    return bool(getattr(criterion, _MARK, False))


def reads_previous(criterion: Criterion) -> bool:
    """Whether the criterion needs `Weights.previous`, a copy of all weights at each prune.

    Known for the functions of this module, and assumed for all others.
    """
    return criterion.__module__ != __name__ or "previous" in criterion.__code__.co_names


def name_of(criterion: Criterion) -> str:
    """What a criterion is called: its own name, that of a partial with its arguments, or of the type of an object."""
    if isinstance(criterion, functools.partial):
        named = [f"{name}={value!r}" for name, value in criterion.keywords.items()]
        return f"{name_of(criterion.func)}({', '.join([*map(repr, criterion.args), *named])})"
    return str(getattr(criterion, "__name__", type(criterion).__name__))


def is_same(one: Criterion, other: Criterion) -> bool:
    """Whether two criteria are one: equal, or partials or objects that were made alike."""
    if one == other:
        return True
    return type(one) is type(other) and not hasattr(one, "__name__") and bool(_makeup(one) == _makeup(other))


def _makeup(criterion: Criterion) -> Any:
    """What tells two partials, or two objects of one type, apart."""
    if isinstance(criterion, functools.partial):
        return criterion.func, criterion.args, criterion.keywords
    return vars(criterion) if hasattr(criterion, "__dict__") else id(criterion)


def large_final(w: Weights) -> Tensor:
    """|w|: magnitude pruning (Frankle & Carbin, arXiv 1803.03635, sec. 1; named as in Zhou et al.)."""
    return w.now.abs()


def squared_final(w: Weights) -> Tensor:
    """w^2: same ranking as |w| for single weights, but means over a group are energies."""
    return w.now.square()


def small_final(w: Weights) -> Tensor:
    """-|w|: keeps the smallest, a control (Zhou et al., arXiv 1905.01067, sec. 2)."""
    return -w.now.abs()


def random_scores(w: Weights) -> Tensor:
    """Uniform noise: gives a random mask with the same counts."""
    return w.noise


def large_init(w: Weights) -> Tensor:
    """|w0| (Zhou et al., arXiv 1905.01067, sec. 2)."""
    return w.initial.abs()


def small_init(w: Weights) -> Tensor:
    """-|w0| (Zhou et al., arXiv 1905.01067, sec. 2)."""
    return -w.initial.abs()


def large_init_large_final(w: Weights) -> Tensor:
    """min(|w|, |w0|): large before and after (Zhou et al., arXiv 1905.01067, sec. 2, with alpha 1)."""
    return w.now.abs().minimum(w.initial.abs())


def small_init_small_final(w: Weights) -> Tensor:
    """-max(|w|, |w0|) (Zhou et al., arXiv 1905.01067, sec. 2)."""
    return -w.now.abs().maximum(w.initial.abs())


def magnitude_increase(w: Weights) -> Tensor:
    """|w| - |w0| (Zhou et al., arXiv 1905.01067, sec. 2)."""
    return w.now.abs() - w.initial.abs()


def movement(w: Weights) -> Tensor:
    """|w - w0| (Zhou et al., arXiv 1905.01067, sec. 2)."""
    return (w.now - w.initial).abs()


def updating_magnitude_increase(w: Weights) -> Tensor:
    """|w| - |wp|, with wp the weight at the previous prune."""
    return w.now.abs() - w.previous.abs()


def updating_movement(w: Weights) -> Tensor:
    """|w - wp|, with wp the weight at the previous prune."""
    return (w.now - w.previous).abs()


@uses_inputs
def wanda(w: Weights) -> Tensor:
    """|w| times the root mean square of its input channel (Sun et al., arXiv 2306.11695, eq. 1).

    The norm is over all positions and images of the calibration data. The paper compares scores within an output row:
    that is the context "output_row", which is usual for this criterion in a sweep.
    """
    assert w.inputs is not None
    return w.now.abs() * w.inputs


def large_final_same_sign(w: Weights) -> Tensor:
    """max(0, w sign(w0)): large final weights with their initial sign (Zhou et al., arXiv 1905.01067, sec. 4.1)."""
    return (w.now * w.initial.sign()).clamp(min=0)


def large_final_diff_sign(w: Weights) -> Tensor:
    """max(0, -w sign(w0)): large final weights whose sign has changed (Zhou et al., arXiv 1905.01067, their code)."""
    return (-w.now * w.initial.sign()).clamp(min=0)


def magnitude_increase_same_sign(w: Weights) -> Tensor:
    """|w| - |w0| of weights with their initial sign, 0 of the others (Zhou et al., arXiv 1905.01067, their code)."""
    return (w.now.abs() - w.initial.abs()) * (w.now.sign() == w.initial.sign())


def magnitude_increase_diff_sign(w: Weights) -> Tensor:
    """|w| - |w0| of weights whose sign has changed, 0 of the others (Zhou et al., arXiv 1905.01067, their code)."""
    return (w.now.abs() - w.initial.abs()) * (w.now.sign() != w.initial.sign())


def updating_movmag(w: Weights) -> Tensor:
    """|w (w - wp)|: movement since the previous prune times magnitude."""
    return (w.now * (w.now - w.previous)).abs()


CRITERIA: dict[str, Criterion] = {
    "large_final": large_final,
    "squared_final": squared_final,
    "small_final": small_final,
    "random": random_scores,
    "large_init": large_init,
    "small_init": small_init,
    "large_init_large_final": large_init_large_final,
    "small_init_small_final": small_init_small_final,
    "magnitude_increase": magnitude_increase,
    "movement": movement,
    "updating_magnitude_increase": updating_magnitude_increase,
    "updating_movement": updating_movement,
    "updating_movmag": updating_movmag,
    "wanda": wanda,
    "large_final_same_sign": large_final_same_sign,
    "large_final_diff_sign": large_final_diff_sign,
    "magnitude_increase_same_sign": magnitude_increase_same_sign,
    "magnitude_increase_diff_sign": magnitude_increase_diff_sign,
}

# What papers and other libraries call these criteria; used to suggest a name
ALSO_CALLED = {
    **dict.fromkeys(("magnitude", "weight_magnitude", "l1", "l1_norm", "l2", "abs", "largest_final"), "large_final"),
    **dict.fromkeys(("initial_magnitude", "magnitude_at_init"), "large_init"),
    **dict.fromkeys(("rand", "uniform"), "random"),
}
