"""Plug-ins that each break one contract, and one that keeps them all."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lth_trainable.data.datasets import Dataset, digits
from lth_trainable.pruning.criteria import Weights

_CALLS = itertools.count(1)
not_a_function = 3


def relative_growth(w: Weights) -> Tensor:
    return w.now.abs() / (w.initial.abs() + 1e-8)


def nan_scores(w: Weights) -> Tensor:
    return w.now.sub(w.now) / w.previous.sub(w.previous)


def one_score_a_layer(w: Weights) -> Tensor:
    return w.now.abs().mean()


def not_a_tensor(w: Weights) -> Any:
    return 1.0


def in_place(w: Weights) -> Tensor:
    return w.now.abs_()


def global_random(w: Weights) -> Tensor:
    return torch.rand_like(w.now)


def numpy_random(w: Weights) -> Tensor:
    return torch.from_numpy(np.random.random(tuple(w.now.shape)))  # noqa: NPY002


def counts_calls(w: Weights) -> Tensor:
    return w.now.abs().roll(next(_CALLS))


within: Any = lambda w: w.now.abs()  # noqa: E731


def gentle(start: Any, end: Any, pos: Any) -> Any:
    return start + (end - start) * pos**2


def overshoots(start: Any, end: Any, pos: Any) -> Any:
    return end * pos * 2


def wavers(start: Any, end: Any, pos: Any) -> Any:
    return end * pos if int(pos * 10) % 2 else end * pos / 2


def forgets(start: Any, end: Any, pos: Any) -> Any:
    return end * pos / (1 + next(_CALLS) % 3)


def is_nan(start: Any, end: Any, pos: Any) -> Any:
    return float("nan")


def small(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 8), nn.ReLU(), nn.Linear(8, n_classes))


def ignores_classes(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 10))


def without_layers(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def unseeded(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    model = small(shape, n_classes)
    nn.init.constant_(model[1].weight, next(_CALLS))
    return model


def fine_data(root: Path | None, split_seed: int) -> Dataset:
    return digits(root, split_seed)


def leaking_data(root: Path | None, split_seed: int) -> Dataset:
    data = digits(root, split_seed)
    return replace(data, test=data.train)


def ambiguous(a: Any, b: Any) -> Any: ...
