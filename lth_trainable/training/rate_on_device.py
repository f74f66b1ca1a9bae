"""fastai's wrapper of a PyTorch optimiser for GPUs: what changes from step to step lies on the device."""

from __future__ import annotations

from typing import Any

import torch
from fastai.optimizer import OptimWrapper
from torch import Tensor

from lth_trainable.training.cycled import CycledAdamW, CycledSGD, zero_buffers

SCALER = -1  # where the state of the loss scaler lies among that of the parameters, which count from 0
GROWTH = "_growth_tracker"  # torch's name for the number of steps since the scale last changed


class RateOnDevice(OptimWrapper):
    """fastai's wrapper of a PyTorch optimiser, with the learning rate in a GPU tensor that graphs can read.

    The rate is rounded to float32, with graphs and without, so that both give the same bytes. So is the momentum of
    optimisers that read it from a tensor (`cycled.py`), to float64. scaler: of the loss, in fp16; its state is part of
    the optimiser's.
    """

    def __init__(self, *args: Any, scaler: torch.amp.GradScaler | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scaler = scaler
        self._first_scale = scaler.state_dict() if scaler is not None else {}
        self.rates = [float(group["lr"]) for group in self.opt.param_groups]
        self.on_device = [
            torch.tensor(rate, dtype=torch.float32, device=group["params"][0].device)
            for rate, group in zip(self.rates, self.opt.param_groups, strict=True)
        ]
        self._hand_over()

    def set_hyper(self, k: str, v: Any) -> None:
        """Like fastai's, but a learning rate is copied to its tensor instead of replacing it in the optimiser.

        A momentum is copied too, if the optimiser reads it from one.
        """
        super().set_hyper(k, v)
        if k == "mom" and self.reads_momentum:
            self.opt.momentum_now.fill_(self.hypers[0]["mom"])
        if k != "lr":
            return
        for index, group in enumerate(self.opt.param_groups):
            if group["lr"] != self.rates[index]:
                self.rates[index] = float(group["lr"])
                self.on_device[index].fill_(self.rates[index])
        self._hand_over()

    @property
    def reads_momentum(self) -> bool:
        """Whether its optimiser reads the momentum from the device."""
        return isinstance(self.opt, CycledSGD | CycledAdamW)

    def read(self, rate: Tensor, momentum: Tensor | None = None) -> None:
        """Take the learning rate, and the momentum, from tensors (1,) on the device. A graph does this in each step."""
        for own in self.on_device:
            own.copy_(rate.squeeze(0))
        if momentum is not None:
            self.opt.momentum_now.copy_(momentum.squeeze(0))

    def follow(self, rate: float, momentum: float | None = None) -> None:
        """Note the rate, and the momentum, that the device has read."""
        self.rates = [rate for _ in self.rates]
        if momentum is not None:
            self.set_hyper("mom", momentum)

    def step(self) -> None:
        """Update the weights; in fp16, unless a gradient is not finite, in which case the scale falls."""
        if self.scaler is None:
            self.opt.step()
        else:
            if isinstance(self.opt, torch.optim.SGD) and self.opt.param_groups[0]["momentum"]:
                zero_buffers(self.opt)
            self.scaler.step(self.opt)
            self.scaler.update()

    @property
    def hypers(self) -> list[dict[str, Any]]:
        return [{**hyper, "lr": rate} for hyper, rate in zip(super().hypers, self.rates, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        found = self.opt.state_dict()
        if self.scaler is None or not found["state"]:
            return found
        scale = {name: torch.tensor(float(self.scaler.state_dict()[name])) for name in ("scale", GROWTH)}
        return {**found, "state": {**found["state"], SCALER: scale}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the optimiser's state, but keep the current learning rate and the weights' memory format."""
        values = dict(state["state"])
        scale = values.pop(SCALER, None)
        self.opt.load_state_dict({**state, "state": values})
        for weight, own in self.opt.state.items():
            for name, value in own.items():
                if torch.is_tensor(value) and value.shape == weight.shape and value.stride() != weight.stride():
                    own[name] = torch.empty_like(weight, requires_grad=False).copy_(value)
        if self.scaler is not None:
            self._set_scale(scale)
        self._hand_over()

    def clear_state(self) -> None:
        super().clear_state()
        if self.scaler is not None:
            self._set_scale(None)

    def _set_scale(self, scale: dict[str, Tensor] | None) -> None:
        """Set the scaler to a stored state; None: to that of a new one."""
        stored = {name: float(value) for name, value in (scale or {}).items()}
        if GROWTH in stored:
            stored[GROWTH] = int(stored[GROWTH])
        assert self.scaler is not None
        self.scaler.load_state_dict({**self._first_scale, **stored})

    def _hand_over(self) -> None:
        for group, rate in zip(self.opt.param_groups, self.on_device, strict=True):
            group["lr"] = rate
