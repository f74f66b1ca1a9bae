"""Learning rates chosen on validation, on seeds that are not those of the verdict, do not inflate alpha (simulated).

Each arm (dense, ticket) has ten candidates. A rate has image effects of its own: which of two equally good rates is
better depends on the images, so that a choice by test images would favour the rate that suits these images by chance.
At every pair of rates the ticket is as far from the dense network as `wanted` says, so that any choice is on the bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from sweeps.experiments.tuning import best_rates
from tests.support.simulated import POOL, Floats, decides, right, shift_for

ALPHA, RUNS = 0.025, 2000
MOST = ALPHA + 4 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)
RATES = tuple(1e-4 * 1.5**step for step in range(10))
TUNING_SEEDS, RATE_SD, TRAIN, VALID, TEST = 3, 0.5, 1150, 287, 360
Held = list[tuple[Any, Any]]  # validation and test images of each seed
Arms = Mapping[tuple[str, float], Floats]  # effects of all images on the networks of an arm at a rate


def arms(rng: np.random.Generator, level: float, wanted: float) -> Arms:
    """Both arms differ from the images' own effects by as much: the dense network is not the easier one to predict."""
    images = rng.normal(0, 1, POOL)
    alike = 1 / math.sqrt(1 + RATE_SD**2)  # so that every rate is equally good

    def effects(shift: float) -> Floats:
        return alike * (images + rng.normal(0, RATE_SD, POOL)) + shift

    shift = shift_for(wanted, level, 0.0)
    return {(arm, rate): effects(shift * (arm == "none")) for arm in ("dense", "none") for rate in RATES}


def splits(rng: np.random.Generator, n: int, own: bool) -> Held:
    """Validation and test images of each seed: of one split, or of a split of its own."""
    orders = [rng.permutation(POOL) for _ in range(n if own else 1)]
    cut = [(order[TRAIN : TRAIN + VALID], order[TRAIN + VALID :]) for order in orders]
    return cut if own else cut * n


def chosen(
    rng: np.random.Generator, level: float, of: Arms, held: list[tuple[Any, Any]], split: int
) -> dict[str, float]:
    """The rates that `--tune-lr` chooses by the accuracies of these seeds on validation (split 0; 1: on test)."""
    rows = [
        {
            "control": arm,
            "lr": rate,
            "status": "done",
            "valid_accuracy": right(rng, level, found[images[split]], 1).mean(),
        }
        for (arm, rate), found in of.items()
        for images in held
    ]
    return {name: arm.rate for name, arm in best_rates(rows).items()}


def judged(rng: np.random.Generator, level: float, wanted: float, n: int, own: bool, sign: int, honest: bool) -> float:
    """The p of a tuned run on its bound. honest: rates chosen on validation and other seeds; else the ticket alone, by
    the test images of the verdict."""
    of = arms(rng, level, wanted)
    held = splits(rng, n + TUNING_SEEDS, own)
    rates = chosen(rng, level, of, held[n:], 0)
    if not honest:
        rates["ticket"] = chosen(rng, level, of, held[:n], 1)["ticket"]
    d = np.full((n, POOL), np.nan)
    for seed, (_, test) in enumerate(held[:n]):
        ticket, dense = (right(rng, level, of[arm, rates[name]][test], 1)[0] for arm, name in ARMS)
        d[seed, test] = ticket - dense
    return decides(d if own else d[:, held[0][1]], wanted, sign)


ARMS = (("none", "ticket"), ("dense", "dense"))


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("n", "level"), [(8, 0.8), (8, 2.0), (20, 2.0)])
@pytest.mark.parametrize("wanted", [-1.0, 0.0])
def test_alpha_holds_with_rates_chosen_on_validation_of_other_seeds(
    wanted: float, n: int, level: float, own: bool
) -> None:
    rng = np.random.default_rng(n)
    for sign in (1, -1):
        p = [judged(rng, level, wanted, n, own, sign, honest=True) for _ in range(RUNS)]
        assert sum(value <= ALPHA for value in p) / RUNS <= MOST


def test_a_rate_chosen_on_the_test_images_of_the_verdict_would_inflate_alpha() -> None:
    rng, few = np.random.default_rng(0), 100
    p = {
        honest: [judged(rng, 0.8, 0.0, 8, own=False, sign=1, honest=honest) for _ in range(few)]
        for honest in (True, False)
    }
    shown = {honest: sum(value <= ALPHA for value in found) / few for honest, found in p.items()}
    assert shown[False] > 3 * ALPHA and shown[True] <= 2 * ALPHA
