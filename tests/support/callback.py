"""A small network on digits with a callback that prunes it, for the tests of the callback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from torch import nn

from lth_trainable import Schedule, SparsifyCallback, large_final, sched_iterative
from lth_trainable.data.datasets import load_dataset
from lth_trainable.data.loaders import resident_loaders
from tests.plugins import tiny_cnn


def learner(model: nn.Module | None = None, **settings: Any) -> Learner:
    data = load_dataset("digits")
    torch.manual_seed(0)
    model = model or tiny_cnn(data.shape, 10)
    learn = Learner(resident_loaders(data, batch_size=230, order_seed=0), model, **settings)
    learn.remove_cbs([cb for cb in learn.cbs if type(cb).__name__ == "ProgressCallback"])
    learn.logger = silent
    return learn


def silent(*_: Any) -> None:
    """A logger that says nothing, and pickles."""


def callback(sparsity: float = 50, schedule: Schedule | None = None, **settings: Any) -> SparsifyCallback:
    schedule = schedule or Schedule(sched_iterative, start_pct=0.25)
    return SparsifyCallback(sparsity, "weight", "local", large_final, schedule, **{"verbose": False, **settings})


def masked(cb: SparsifyCallback) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    for layer in cb.pruner.layers:
        yield layer.name, layer.weight, torch.from_numpy(cb.pruner.in_force[layer.parameter_name])


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())}


class Spy(Callback):
    """Looks at the weights before every forward pass of the training."""

    order = 50

    def __init__(self, look: Any) -> None:
        self.look = look

    def before_batch(self) -> None:
        self.look()


def zeros_hold(cb: SparsifyCallback) -> bool:
    return all(bool((weight.detach()[~mask] == 0).all()) for _, weight, mask in masked(cb))
