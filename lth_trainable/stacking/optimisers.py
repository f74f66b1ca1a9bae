"""The updates of the optimisers that a stack knows, on lists of tensors: torch's own fused kernels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from lth_trainable.stacking.run import NotStackable

Tensors = list[Tensor]


class Update(ABC):
    """An optimiser's update with settings of one group of parameters. keys: names of its tensors of each parameter."""

    keys: tuple[str, ...] = ()

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    @abstractmethod
    def __call__(self, weights: Tensors, gradients: Tensors, state: Mapping[str, Tensors], rate: Any) -> None:
        """Change weights and state in place. rate: the learning rate, a number or a tensor () on the device."""

    def empty(self, key: str, weight: Tensor) -> Tensor:
        """A tensor of the state of a parameter before its first step."""
        return torch.zeros_like(weight, requires_grad=False)


class Sgd(Update):
    """SGD with momentum and weight decay. Its buffers start from zeros, which is what torch's first step does."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        if settings["dampening"] != 0:
            raise NotStackable("its SGD has a dampening, which leaves out the first step")
        self.keys = ("momentum_buffer",) if settings["momentum"] != 0 else ()

    def __call__(self, weights: Tensors, gradients: Tensors, state: Mapping[str, Tensors], rate: Any) -> None:
        own = {name: self.settings[name] for name in ("weight_decay", "momentum", "dampening", "nesterov", "maximize")}
        buffers: list[Tensor | None] = list(state.get("momentum_buffer", [None] * len(weights)))
        sgd(weights, gradients, buffers, fused=True, lr=rate, **own)


class AdamWUpdate(Update):
    """AdamW. Each parameter counts its own steps."""

    keys = ("step", "exp_avg", "exp_avg_sq")

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        if settings["amsgrad"]:
            raise NotStackable("its AdamW has amsgrad")

    def __call__(self, weights: Tensors, gradients: Tensors, state: Mapping[str, Tensors], rate: Any) -> None:
        own = {name: self.settings[name] for name in ("weight_decay", "eps", "maximize")}
        beta1, beta2 = self.settings["betas"]
        adamw(
            weights, gradients, state["exp_avg"], state["exp_avg_sq"], [], state["step"], fused=True,
            capturable=weights[0].is_cuda, amsgrad=False, beta1=beta1, beta2=beta2, lr=rate, **own,
        )  # fmt: skip

    def empty(self, key: str, weight: Tensor) -> Tensor:
        return torch.zeros((), device=weight.device) if key == "step" else super().empty(key, weight)


_UPDATES: dict[type[torch.optim.Optimizer], type[Update]] = {SGD: Sgd, AdamW: AdamWUpdate}


def update_of(optimizer: torch.optim.Optimizer) -> Update:
    """The update of an optimiser. Raises `NotStackable`."""
    known = _UPDATES.get(type(optimizer))
    if known is None:
        names = " and ".join(kind.__name__ for kind in _UPDATES)
        raise NotStackable(f"its optimiser is {type(optimizer).__name__}; those of a stack are {names}")
    return known(settings_of(optimizer))


def settings_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The settings of an optimiser, without its learning rate. Raises `NotStackable` if it has different ones."""
    own = ("params", "lr", "initial_lr")
    found, *others = [
        {name: value for name, value in group.items() if name not in own} for group in optimizer.param_groups
    ]
    if any(other != found for other in others):
        raise NotStackable("groups of its parameters have different settings")
    return found
