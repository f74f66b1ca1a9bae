"""What `scale.py` plugs in: pictures, a network and sweeps so small that all else is what takes the time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lth_trainable.data.datasets import Dataset, split
from sweeps.experiments.recipes import Sweep

if TYPE_CHECKING:
    from torch import nn

HERE = "scale_tiny"
BASE = {"dataset": f"{HERE}:pictures", "model": f"{HERE}:linear", "batch_size": 32, "epochs": 1}


def pictures(root: Path | None, split_seed: int) -> Dataset:
    """48 pictures of 4x4 px in four classes, told apart by their brightest quarter: 32 / 8 / 8."""
    x = np.random.default_rng(0).integers(0, 128, (48, 1, 4, 4), dtype=np.uint8)
    y = np.arange(48, dtype=np.int64) % 4
    for picture, label in zip(x[:, 0], y, strict=True):
        row, column = divmod(int(label), 2)
        picture[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 100
    return split(x, y, tuple("abcd"), sizes=(32, 8, 8), seed=split_seed)


def linear(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """One layer of 64 weights."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], n_classes))


def tickets() -> Sweep:
    """A ticket a seed, pruned to 50 % before its first step, and its dense network. No two share any training."""
    return Sweep(
        name="tickets", claim="How fast are trials that take no time?",
        base={**BASE, "epochs": 2, "schedule": "one_shot", "start_pct": 0.0},
        axes={"target_sparsity_pct": (50.0,)}, seeds=tuple(range(1000)),
    )  # fmt: skip


def ladders() -> Sweep:
    """Ladders of 19 tickets with their dense network, four a seed: 10,000 trials, of which 500 train all others."""
    rungs = tuple(round(100 * (1 - 0.8**level), 4) for level in range(1, 20))
    return Sweep(
        name="ladders", claim="How fast are trials that others train?", base={**BASE, "prune_rate_pct": 20.0},
        axes={"lr": (0.0005, 0.001, 0.002, 0.004), "target_sparsity_pct": rungs}, seeds=tuple(range(125)),
    )  # fmt: skip


TRIALS_A_SEED = 80  # of `ladders`
