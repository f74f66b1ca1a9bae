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


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One layer's weights as a criterion sees them, all of one shape and device.

    now: at the moment of the prune. initial: at initialisation. previous: at the previous prune, `initial` before the
    first. noise: uniform in [0, 1), a function of the seed, the level and the layer; drawn when asked for.
    """

    now: Tensor
    initial: Tensor
    previous: Tensor
    draw: Callable[[], Tensor]

    @property
    def noise(self) -> Tensor:
        return self.draw()


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


def updating_movmag(w: Weights) -> Tensor:
    """|w (w - wp)|: movement since the previous prune times magnitude."""
    return (w.now * (w.now - w.previous)).abs()


Criterion = Callable[[Weights], "Tensor"]

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
}
