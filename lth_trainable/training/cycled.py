"""PyTorch's optimisers with a momentum that is read from the device, for learning-rate policies that move it.

PyTorch's fused optimisers take momentum as a number, which a CUDA graph keeps as it was. These read it from a tensor,
as they do the learning rate. Their state is that of PyTorch's own optimisers, by name, shape and meaning. They step the
same with graphs and without. From PyTorch's own they differ by rounding, so a trial's fingerprint tells them apart.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class CycledSGD(torch.optim.SGD):
    """SGD whose momentum is `momentum_now`, float64 (), on the device.

    The buffers decay first; then PyTorch's kernel adds the gradients to them and updates the weights.
    """

    def __init__(self, params: Any, lr: float, **settings: Any) -> None:
        super().__init__(params, lr, fused=True, **settings)
        self.momentum_now = _like(self.param_groups, self.param_groups[0]["momentum"])

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the weights; not if `found_inf`, which GradScaler sets, is 1."""
        buffers = zero_buffers(self)
        if not buffers:
            return
        torch._foreach_mul_(buffers, _unless(_is_bad(self), self.momentum_now, 1.0).float())
        numbers = [group["momentum"] for group in self.param_groups]
        try:
            for group in self.param_groups:
                group["momentum"] = 1.0  # what the kernel multiplies a buffer by
            super().step()
        finally:
            for group, number in zip(self.param_groups, numbers, strict=True):
                group["momentum"] = number


class CycledAdamW(torch.optim.AdamW):
    """AdamW whose beta1 is `momentum_now`, float64 (), on the device (Loshchilov & Hutter, arXiv 1711.05101, alg. 2).

    As in PyTorch, the bias of the first moment is corrected by the beta1 of the step: 1 - beta1^t.
    """

    def __init__(self, params: Any, lr: float, **settings: Any) -> None:
        super().__init__(params, lr, fused=True, **settings)  # fused: GradScaler leaves its scale to the step
        self.momentum_now = _like(self.param_groups, self.param_groups[0]["betas"][0])

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the weights by gradients divided by `grad_scale`; not if `found_inf` is 1. GradScaler sets both."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(group, weights)

    def _update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        states = [_moments(self.state[weight], weight) for weight in weights]
        steps, first, second = ([state[name] for state in states] for name in ("step", "exp_avg", "exp_avg_sq"))
        is_bad = _is_bad(self)
        gradients = self._gradients(weights, is_bad)
        torch._foreach_add_(steps, 1)
        number, beta1 = torch.stack(steps).double(), self.momentum_now
        beta2 = _like(self.param_groups, group["betas"][1])
        lr = _unless(is_bad, torch.as_tensor(group["lr"], dtype=torch.float64, device=beta1.device), 0.0)
        corrections = (1 - beta1**number) / lr, (1 - beta2**number).sqrt()

        torch._foreach_mul_(weights, (1 - lr * group["weight_decay"]).float())
        torch._foreach_mul_(first, _unless(is_bad, beta1, 1.0).float())
        torch._foreach_add_(first, torch._foreach_mul(gradients, (1 - beta1).float()))
        torch._foreach_mul_(second, _unless(is_bad, beta2, 1.0).float())
        torch._foreach_addcmul_(second, gradients, gradients, 1 - group["betas"][1])
        # weight -= lr / correction1 * first / (sqrt(second) / correction2 + eps)
        divisors = torch._foreach_sqrt(second)
        torch._foreach_div_(divisors, list(corrections[1].float()))
        torch._foreach_add_(divisors, group["eps"])
        torch._foreach_mul_(divisors, list(-corrections[0].float()))
        torch._foreach_addcdiv_(weights, first, divisors)
        if is_bad is not None:
            torch._foreach_add_(steps, -is_bad.float())

    def _gradients(self, weights: list[Tensor], is_bad: Tensor | None) -> list[Tensor]:
        """The gradients without their scale; zeros, which change no moment, if the step is to change nothing."""
        gradients: Any = [weight.grad for weight in weights]
        scale = getattr(self, "grad_scale", None)
        if scale is not None:
            gradients = torch._foreach_div(gradients, scale.squeeze())
        return gradients if is_bad is None else [gradient.masked_fill(is_bad, 0.0) for gradient in gradients]


def zero_buffers(optimizer: torch.optim.SGD) -> list[Tensor]:
    """The momentum buffers of all weights that have a gradient; those that are not there yet are made, of zeros.

    PyTorch makes them of whatever its memory holds, and leaves them so if GradScaler refuses the very first step.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
    for weight in weights:
        if optimizer.state[weight].get("momentum_buffer") is None:
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return [optimizer.state[weight]["momentum_buffer"] for weight in weights]


def _moments(state: dict[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    """AdamW's state of a weight, made before its first step."""
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
    return state


def _like(groups: list[dict[str, Any]], number: float) -> Tensor:
    """A number as float64 () beside the weights; made there, without waiting for the device."""
    return torch.full((), number, dtype=torch.float64, device=groups[0]["params"][0].device)


def _is_bad(optimizer: Any) -> Tensor | None:
    """Whether GradScaler has found a gradient that is not finite, bool (); None without a scaler."""
    found = getattr(optimizer, "found_inf", None)
    return None if found is None else found.squeeze() > 0


def _unless(is_bad: Tensor | None, value: Tensor, otherwise: float) -> Tensor:
    return value if is_bad is None else value.masked_fill(is_bad, otherwise)
