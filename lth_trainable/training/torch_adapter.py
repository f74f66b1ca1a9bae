"""What this project uses of PyTorch without its being public: the arithmetic of an optimiser's step, and how to make an
optimiser without importing the compiler.

`Optimizer.step` opens a record for the profiler, sorts its tensors by device and type, and checks settings, each time
anew. For a small network on a CPU that takes as long as the update itself. Seen to work with torch 2.14;
`test_torch_adapter.py` fails, and says why, where another version steps differently.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW
from torch.optim import optimizer as torch_optimizer

_COMMON = {"params", "lr", "weight_decay", "maximize", "foreach", "differentiable", "fused"}
SETTINGS: dict[type[torch.optim.Optimizer], set[str]] = {
    AdamW: _COMMON | {"betas", "eps", "amsgrad", "capturable", "decoupled_weight_decay"},
    SGD: _COMMON | {"momentum", "dampening", "nesterov"},
}  # what a group of parameters has; with anything else a step may mean more
KERNELS = ("_fused_adamw_", "_fused_sgd_", "_foreach_add_")  # of `torch`
HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")  # of an optimiser
GLOBAL_HOOKS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")  # of `torch.optim.optimizer`
COMPILED = ("add_param_group", "state_dict", "load_state_dict")  # of an optimiser: never compiled
OFF = "__dynamo_disable"  # where PyTorch keeps the version of a function that is not compiled

IS_KNOWN = all(hasattr(torch, name) for name in KERNELS) and all(hasattr(torch_optimizer, n) for n in GLOBAL_HOOKS)


def spare_compiler() -> None:
    """Let optimisers be made, stored and restored without PyTorch's compiler.

    PyTorch imports it for each of these, only to say that they are not to be compiled; that takes 2.5 s of CPU time in
    every worker. Where the compiler is there already, or PyTorch is not as expected, nothing changes.
    """
    if "torch._dynamo" in sys.modules:
        return
    for name in COMPILED:
        function = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if function is not None and not hasattr(function, OFF):
            setattr(function, OFF, function)


def direct_step(optimizer: torch.optim.Optimizer) -> bool:
    """Make one step: the same bytes as `optimizer.step()`, without what is not arithmetic.

    False, with nothing done: only `optimizer.step()` can make this one. That is so where hooks are to be called, and
    for settings and tensors other than those of a trial on a CPU.
    """
    if not is_plain(optimizer) or _is_watched(optimizer):
        return False
    (group,) = optimizer.param_groups
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    gradients = [parameter.grad for parameter in parameters]
    if not parameters or any(gradient.is_sparse for gradient in gradients):
        return False
    update = _adamw if type(optimizer) is AdamW else _sgd
    return update(group, parameters, gradients, optimizer.state)


def is_plain(optimizer: torch.optim.Optimizer) -> bool:
    """Whether settings and parameters of an optimiser are those of a trial on a CPU."""
    expected = SETTINGS.get(type(optimizer))
    if not IS_KNOWN or expected is None or len(optimizer.param_groups) != 1:
        return False
    (group,) = optimizer.param_groups
    refused = group.get("amsgrad", False) or group["differentiable"] or not group["fused"]
    return (
        group.keys() == expected
        and not refused
        and group.get("decoupled_weight_decay", True)
        and not isinstance(group["lr"], Tensor)
        and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in group["params"])
    )


def _is_watched(optimizer: Any) -> bool:
    """Whether more belongs to a step than arithmetic: hooks, a scheduler that counts calls, the scale of gradients."""
    own = optimizer.__dict__
    return bool(
        any(getattr(optimizer, name, True) for name in HOOKS)
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
        or "step" in own
        or "grad_scale" in own
        or "found_inf" in own
    )


@torch.no_grad()
def _adamw(group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], state_of: Any) -> bool:
    states = [state_of[parameter] for parameter in parameters]
    for parameter, state in zip(parameters, states, strict=True):
        if not state:  # its first step
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    steps = [state["step"] for state in states]
    beta1, beta2 = group["betas"]
    torch._foreach_add_(steps, 1)
    torch._fused_adamw_(
        parameters, gradients, [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states], [],
        steps, amsgrad=False, lr=group["lr"], beta1=beta1, beta2=beta2, weight_decay=group["weight_decay"],
        eps=group["eps"], maximize=group["maximize"], grad_scale=None, found_inf=None,
    )  # fmt: skip
    return True


@torch.no_grad()
def _sgd(group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], state_of: Any) -> bool:
    momentum, states, buffers, is_first = group["momentum"], [], [], False
    if momentum != 0:
        states = [state_of[parameter] for parameter in parameters]
        buffers = [state.get("momentum_buffer") for state in states]
        is_first = all(buffer is None for buffer in buffers)
        if is_first:
            buffers = [torch.empty_like(gradient) for gradient in gradients]
        elif any(buffer is None for buffer in buffers):
            return False
    torch._fused_sgd_(
        parameters, gradients, buffers, weight_decay=group["weight_decay"], momentum=momentum, lr=group["lr"],
        dampening=group["dampening"], nesterov=group["nesterov"], maximize=group["maximize"], is_first_step=is_first,
        grad_scale=None, found_inf=None,
    )  # fmt: skip
    for state, buffer in zip(states, buffers, strict=True):
        state["momentum_buffer"] = buffer
    return True


spare_compiler()
