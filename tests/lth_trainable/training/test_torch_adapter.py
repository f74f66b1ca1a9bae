"""What PyTorch does not document of an optimiser's step: a version that changes it is noticed here."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim import optimizer as torch_optimizer

from lth_trainable.training.torch_adapter import GLOBAL_HOOKS, HOOKS, IS_KNOWN, KERNELS, SETTINGS, direct_step, is_plain

ADAM: dict[str, Any] = {"lr": 0.01, "fused": True}
SGD_: dict[str, Any] = {"lr": 0.1, "fused": True}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3))


def gradients(model: nn.Module, step: int) -> None:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
    model.zero_grad()
    model(x).square().mean().backward()


def state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    found = optimizer.state_dict()["state"]
    return {
        f"{index} {name}": value for index, own in found.items() for name, value in own.items() if value is not None
    }


def test_pytorch_has_the_names_that_the_adapter_uses() -> None:
    optimizer = AdamW(network().parameters(), **ADAM)
    lacking = [f"torch.{name}" for name in KERNELS if not hasattr(torch, name)]
    lacking += [f"torch.optim.optimizer.{name}" for name in GLOBAL_HOOKS if not hasattr(torch_optimizer, name)]
    lacking += [f"Optimizer.{name}" for name in HOOKS if not hasattr(optimizer, name)]
    assert not lacking and IS_KNOWN, (
        f"torch {torch.__version__}: found no {', '.join(lacking)}; steps on a CPU are slower without; see how "
        "torch.optim makes a fused step now, and adapt lth_trainable/training/torch_adapter.py"
    )


@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_pytorch_has_the_settings_that_the_adapter_knows(kind: type[torch.optim.Optimizer]) -> None:
    found = set(kind(network().parameters(), fused=True).param_groups[0])  # type: ignore[call-arg]
    assert found == SETTINGS[kind], (
        f"torch {torch.__version__}: {kind.__name__} has other settings ({sorted(found ^ SETTINGS[kind])}); see what "
        "they do in a step, and adapt lth_trainable/training/torch_adapter.py"
    )


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (AdamW, ADAM),
        (AdamW, {**ADAM, "weight_decay": 0.1, "betas": (0.8, 0.99), "eps": 1e-6}),
        (AdamW, {**ADAM, "maximize": True}),
        (SGD, SGD_),
        (SGD, {**SGD_, "momentum": 0.9, "weight_decay": 0.01}),
        (SGD, {**SGD_, "momentum": 0.9, "nesterov": True}),
        (SGD, {**SGD_, "momentum": 0.9, "dampening": 0.1}),
    ],
    ids=["adamw", "adamw-settings", "adamw-maximize", "sgd", "momentum", "nesterov", "dampening"],
)
def test_a_direct_step_has_the_bytes_of_pytorchs(kind: type[torch.optim.Optimizer], settings: dict[str, Any]) -> None:
    """Also with rates that change, after the state was restored, and with a parameter that has no gradient."""
    models = [network(), network()]
    stock, ours = (kind(model.parameters(), **settings) for model in models)
    made = []
    for step in range(8):
        for optimizer in (stock, ours):
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + step)
        if step == 5:
            for optimizer in (stock, ours):
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for model in models:
            gradients(model, step)
            if step == 3:
                model[0].bias.grad = None
        stock.step()
        made.append(direct_step(ours))
        if not made[-1]:
            ours.step()
    assert made == 8 * [True]
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(stock.state) == len(ours.state)
    left, right = state(stock), state(ours)
    assert list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


def _hook(optimizer: torch.optim.Optimizer) -> None:
    optimizer.register_step_post_hook(lambda *_: None)


def _scheduler(optimizer: torch.optim.Optimizer) -> None:
    torch.optim.lr_scheduler.ConstantLR(optimizer)


def _scale(optimizer: Any) -> None:
    optimizer.grad_scale = torch.ones(())


def _tensor_rate(optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0]["lr"] = torch.tensor(0.01)


def _second_group(optimizer: torch.optim.Optimizer) -> None:
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})


def _sparse(optimizer: torch.optim.Optimizer) -> None:
    parameter = optimizer.param_groups[0]["params"][0]
    parameter.grad = torch.zeros_like(parameter).to_sparse()


@pytest.mark.parametrize("change", [_hook, _scheduler, _scale, _tensor_rate, _second_group, _sparse])
def test_a_step_in_which_more_happens_is_left_to_pytorch(change: Callable[[torch.optim.Optimizer], None]) -> None:
    model = network()
    optimizer = AdamW(model.parameters(), **ADAM)
    gradients(model, 0)
    optimizer.step()
    assert direct_step(optimizer)
    before = copy.deepcopy(state(optimizer)), [parameter.detach().clone() for parameter in model.parameters()]
    change(optimizer)
    assert not direct_step(optimizer)
    assert all(torch.equal(value, state(optimizer)[name]) for name, value in before[0].items())
    assert all(torch.equal(a, b) for a, b in zip(before[1], model.parameters(), strict=True))


@pytest.mark.parametrize(
    "settings", [{"amsgrad": True}, {"fused": False}, {"differentiable": True, "fused": False}], ids=str
)
def test_settings_that_trials_do_not_have_are_left_to_pytorch(settings: dict[str, Any]) -> None:
    assert is_plain(AdamW(network().parameters(), **ADAM))
    assert not is_plain(AdamW(network().parameters(), **{**ADAM, **settings}))
    assert not is_plain(AdamW(network().double().parameters(), **ADAM))
    assert not is_plain(torch.optim.Adam(network().parameters(), **ADAM))


def test_an_optimiser_is_made_stored_and_restored_without_the_compiler() -> None:
    """In a new process, since others have imported the compiler here."""
    code = """if True:
        import sys, torch
        from lth_trainable.training.torch_adapter import direct_step
        weight = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.AdamW([weight], fused=True)
        weight.sum().backward()
        assert direct_step(optimizer)
        optimizer.load_state_dict(optimizer.state_dict())
        print("torch._dynamo" in sys.modules)
    """
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False", (
        f"torch {torch.__version__}: its compiler is imported for each optimiser; see what torch/_compile.py asks for "
        "now, and adapt spare_compiler in lth_trainable/training/torch_adapter.py: workers start 2.5 s later without"
    )
