"""Optimisers that read their momentum from the device: they step as PyTorch's do, and not with a bad scale."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.fingerprints import of_place, of_trial
from lth_trainable.training.cycled import CycledAdamW, CycledSGD
from lth_trainable.training.rate_on_device import RateOnDevice

KINDS = {"adam": (torch.optim.AdamW, CycledAdamW, "betas"), "sgd": (torch.optim.SGD, CycledSGD, "momentum")}
MOMENTA = (0.95, 0.9, 0.85, 0.0, 0.3, 0.95)
SETTINGS: dict[str, Any] = {"weight_decay": 0.05}


def network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(16, 4), torch.randn(16, 3)


def gradients(model: nn.Module, x: Tensor, y: Tensor, scale: float = 1.0) -> None:
    model.zero_grad()
    (scale * (model(x) - y).square().mean()).backward()


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    kept = [value.clone() for values in optimizer.state.values() for value in values.values()]
    return [*(weight.detach().clone() for weight in model.parameters()), *kept]


def first_momentum(name: str) -> dict[str, Any]:
    return {"betas": (MOMENTA[0], 0.999)} if name == "adam" else {"momentum": MOMENTA[0]}


def wrapped(name: str, model: nn.Module, lr: float) -> RateOnDevice:
    cycled = partial(KINDS[name][1], **first_momentum(name), **SETTINGS)
    return RateOnDevice(list(model.parameters()), opt=cycled, lr=lr)


@pytest.mark.parametrize("name", KINDS)
def test_a_momentum_in_a_tensor_steps_as_the_number_does(name: str) -> None:
    plain, _, field = KINDS[name]
    model, x, y = network()
    other = copy.deepcopy(model)
    theirs = plain(model.parameters(), lr=2**-5, **first_momentum(name), **SETTINGS)
    ours = wrapped(name, other, lr=2**-5)
    for momentum in (m for m in MOMENTA if m > 0):  # at 0, PyTorch's SGD leaves its buffers as they are
        theirs.param_groups[0][field] = (momentum, 0.999) if name == "adam" else momentum
        ours.set_hyper("mom", momentum)
        assert ours.hypers[0]["mom"] == momentum == float(ours.opt.momentum_now)
        gradients(model, x, y)
        gradients(other, x, y)
        theirs.step()
        ours.step()
    for mine, its in zip(state_of(other, ours.opt), state_of(model, theirs), strict=True):
        torch.testing.assert_close(mine, its, rtol=2e-5, atol=1e-7)
    assert ours.state_dict()["state"].keys() == theirs.state_dict()["state"].keys()
    (some,) = {tuple(sorted(values)) for values in ours.state_dict()["state"].values()}
    assert some == tuple(sorted(theirs.state_dict()["state"][0]))


@pytest.mark.parametrize("name", KINDS)
def test_momentum_from_the_device_or_from_the_host_gives_the_same_bytes(name: str) -> None:
    found = []
    for from_device in (False, True):
        model, x, y = network()
        wrapper = wrapped(name, model, lr=0.1)
        for momentum in MOMENTA:
            if from_device:
                wrapper.read(torch.tensor([0.1]), torch.tensor([momentum], dtype=torch.float64))
            else:
                wrapper.set_hyper("mom", momentum)
            gradients(model, x, y)
            wrapper.step()
            if from_device:
                wrapper.follow(0.1, momentum)
            assert wrapper.hypers[0]["mom"] == momentum
        found.append(state_of(model, wrapper.opt))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("bad_at", [0, 2], ids=["the first step", "a later step"])
@pytest.mark.parametrize("name", KINDS)
def test_a_step_that_the_scale_of_the_loss_spoils_changes_nothing(name: str, bad_at: int) -> None:
    """As GradScaler does it: it sets the scale, and whether a gradient is not finite."""
    found = []
    for with_bad in (False, True):
        model, x, y = network()
        optimizer = KINDS[name][1](model.parameters(), 0.1, **first_momentum(name), **SETTINGS)
        for step in range(4):
            optimizer.grad_scale = torch.tensor(256.0)
            if with_bad and step == bad_at:
                gradients(model, x, y, scale=float("inf"))
                before = state_of(model, optimizer) if step else None
                optimizer.found_inf = torch.tensor(1.0)
                optimizer.step()
                after = state_of(model, optimizer)
                assert all(torch.isfinite(tensor).all() for tensor in after)
                assert before is None or all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
            gradients(model, x, y, scale=256.0)
            optimizer.found_inf = torch.tensor(0.0)
            optimizer.step()
        found.append(state_of(model, optimizer))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_only_a_gpu_trial_whose_momentum_moves_says_so_in_its_fingerprint() -> None:
    gpu, cpu = {"device": "cuda: NVIDIA H100", "threads": 1}, {"device": "cpu: x86_64 AVX2", "threads": 1}
    plain, cycled = TrialSpec(), TrialSpec(lr_policy="one_cycle")
    assert of_trial(gpu, plain) == gpu and of_trial(cpu, cycled) == cpu
    of_gpu = of_trial(gpu, cycled)
    assert of_gpu == {**gpu, "momentum": "on_device"} and of_place(of_gpu) == gpu
    assert of_trial(of_gpu, plain) == gpu and of_trial(of_gpu, cycled) == of_gpu


def test_the_first_step_that_a_scale_spoils_leaves_momentum_of_zero() -> None:
    """PyTorch's SGD would leave what its memory held."""
    model, x, y = network()
    wrapper = RateOnDevice(
        list(model.parameters()), opt=partial(torch.optim.SGD, fused=True, **first_momentum("sgd")), lr=0.1
    )
    wrapper.scaler = Spoils()
    gradients(model, x, y)
    wrapper.step()
    assert all(not values["momentum_buffer"].any() for values in wrapper.opt.state.values())


class Spoils:
    """A GradScaler that has found a gradient that is not finite."""

    def step(self, optimizer: Any) -> None:
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(256.0), torch.tensor(1.0)
        optimizer.step()

    def update(self) -> None: ...
