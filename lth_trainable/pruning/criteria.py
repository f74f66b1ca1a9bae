"""Which weights to keep: parameters -> scores, one short function per published criterion. Higher scores are kept.

A criterion is `f(weights: Weights) -> tensor` of the weight's shape. To add one, write the function and enter it in
`CRITERIA`, or name it on a command line as `package.module:function`. Torch is needed to call them, not to import them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


Criterion = Callable[["Weights"], "Tensor"]
_MARK = "uses_inputs"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One layer's weights as a criterion sees them, all of one shape and device.

    now: at the moment of the prune. initial: at initialisation. previous: at the previous prune, `initial` before the
    first. noise: uniform in [0, 1), a function of the seed, the level and the layer; drawn when asked for. inputs: root
    mean square of each input channel over training data, in the shape that multiplies the weight; for criteria marked
    with `uses_inputs`.
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
    """Mark a criterion that reads `Weights.inputs`: a pass over training data is then made before each prune."""
    setattr(criterion, _MARK, True)
    return criterion


def needs_inputs(criterion: Criterion) -> bool:
    """Whether the criterion is marked with `uses_inputs`."""
    return getattr(criterion, _MARK, False)


def reads_previous(criterion: Criterion) -> bool:
    """Whether `Weights.previous` must be kept for the criterion: a copy of all weights at each prune.

    Known of the functions of this module, and assumed of any other.
    """
    return criterion.__module__ != __name__ or "previous" in criterion.__code__.co_names


def large_final(w: Weights) -> Tensor:
    """|w|: magnitude pruning (Frankle & Carbin, arXiv 1803.03635, sec. 1; named as in Zhou et al.)."""
    return w.now.abs()


def squared_final(w: Weights) -> Tensor:
    """w^2: ranks as |w| does, but sums to energies over a group."""
    return w.now.square()


def small_final(w: Weights) -> Tensor:
    """-|w|: keeps the smallest, a control (Zhou et al., arXiv 1905.01067, sec. 2)."""
    return -w.now.abs()


def random_scores(w: Weights) -> Tensor:
    """Uniform noise: a random mask of the same counts."""
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
    """|w| - |wp|, since the previous prune."""
    return w.now.abs() - w.previous.abs()


def updating_movement(w: Weights) -> Tensor:
    """|w - wp|, since the previous prune."""
    return (w.now - w.previous).abs()


@uses_inputs
def wanda(w: Weights) -> Tensor:
    """|w| times the root mean square of its input channel (Sun et al., arXiv 2306.11695, eq. 1).

    The norm is over all positions and pictures of the calibration data; the paper compares within an output row, which
    is a matter of granularity and context here.
    """
    assert w.inputs is not None
    return w.now.abs() * w.inputs


def large_final_same_sign(w: Weights) -> Tensor:
    """max(0, w sign(w0)): large final weights that kept their sign (Zhou et al., arXiv 1905.01067, sec. 4.1)."""
    return (w.now * w.initial.sign()).clamp(min=0)


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
}
