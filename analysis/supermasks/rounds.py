"""How sparse each layer is after some rounds of pruning, as in the papers on lottery tickets. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from lth_trainable.pruning.levels import rungs

# Percent of the remaining weights that a round removes, by kind of layer: Frankle & Carbin, arXiv 1803.03635, fig. 2,
# which Zhou et al., arXiv 1905.01067, take over.
USUAL = {"convolution": 20.0, "linear": 20.0, "output": 20.0}  # of networks that the papers do not have
RATES: dict[str, Mapping[str, float]] = {
    "lenet_300_100": {**USUAL, "output": 10.0},
    "conv_2": {"convolution": 10.0, "linear": 20.0, "output": 10.0},
    "conv_4": {"convolution": 10.0, "linear": 20.0, "output": 10.0},
    "conv_6": {"convolution": 15.0, "linear": 20.0, "output": 10.0},
}


def sparsities(model: str, kinds: Mapping[str, str], n_rounds: int) -> dict[str, Fraction]:
    """Exact sparsity (a fraction) of each layer after `n_rounds` rounds, by parameter name.

    model: its name. kinds: the kind of each layer, a key of `USUAL`.
    """
    rates = RATES.get(model, USUAL)
    return {name: rungs(rates[kind], n_rounds)[-1] for name, kind in kinds.items()}
