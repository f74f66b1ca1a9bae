"""Slots with equally many steps and one learning rate are updated as one, where that gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from lth_trainable.stacking.independence import updates_are_the_same
from lth_trainable.stacking.run import Run
from lth_trainable.stacking.slots import Member, Slots
from lth_trainable.stacking.stack import Stack
from tests.support.stacks import loaders, member, run_of, stack_of, tensors_of

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]
K = 4


def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes how slots are updated from here on."""
    found = list[str]()
    for name in ("update_as_one", "update_each"):
        plain = getattr(Slots, name)

        def noted(self: Slots, *args: Any, plain: Any = plain, name: str = name) -> None:
            found.append(name)
            plain(self, *args)

        monkeypatch.setattr(Slots, name, noted)
    return found


def made(optimizer: str, dls: Any, whole: bool, k: int = K) -> Stack:
    stack = stack_of(member("lenet_300_100", 50, optimizer, dls.train), dls, k)
    stack.slots.updates_whole = whole
    return stack


def train(stack: Stack, members: Mapping[int, Member], runs: Mapping[int, Run]) -> None:
    stack.load_all(members)
    stack.train(runs)
    stack.unload_all(members)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("slots", [(0, 1, 2, 3), (1, 3)], ids=["full", "with idle slots"])
def test_updates_as_one_are_those_of_each(
    optimizer: str, slots: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    dls, found = loaders(), list[Any]()
    for whole in (False, True):
        stack = made(optimizer, dls, whole)
        members = {slot: member("lenet_300_100", slot, optimizer, dls.train) for slot in slots}
        noted = ways(monkeypatch)
        for seed in (1, 2):  # the second run starts from counts that the first has left
            train(stack, members, {slot: run_of(dls.train, seed + slot) for slot in slots})
        assert set(noted) == {"update_as_one" if whole else "update_each"}
        found.append([{name: value.clone() for name, value in tensors_of(each).items()} for each in members.values()])
    for each, as_one in zip(*found, strict=True):
        assert each.keys() == as_one.keys()
        for name, value in each.items():
            # an update is up to 1e-2; where gradients are tiny, AdamW makes a large one of their rounding
            torch.testing.assert_close(as_one[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("difference", ["rate", "steps"])
def test_slots_that_differ_are_updated_one_by_one(difference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dls = loaders()
    stack, members = made("adamw", dls, True), {s: member("lenet_300_100", s, "adamw", dls.train) for s in range(K)}
    if difference == "steps":
        train(stack, {0: members[0]}, {0: run_of(dls.train, 5)})
    rates = (0.01, 0.02 if difference == "rate" else 0.01)
    noted = ways(monkeypatch)
    train(stack, members, {slot: run_of(dls.train, slot, rates[slot == 2]) for slot in range(K)})
    assert set(noted) == {"update_each"}
    steps = [float(each.optimizer.state[next(each.model.parameters())]["step"]) for each in members.values()]
    assert steps == [12.0 if difference == "steps" else 6.0, 6.0, 6.0, 6.0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_trial_of_updates_changes_nothing(optimizer: str, device: str) -> None:
    dls = loaders(device, channels_last=device == "cuda")
    stack = stack_of(member("resnet20", 50, optimizer, dls.train), dls, K)
    slots = stack.slots
    before = [value.clone() for value in everything(slots)]
    streams = torch.get_rng_state()
    found = updates_are_the_same(slots)
    assert all(map(torch.equal, before, everything(slots))) and torch.equal(torch.get_rng_state(), streams)
    assert device == "cpu" or (found and slots.updates_whole), "on a GPU each number is updated by itself"


def test_updates_as_one_that_differ_in_a_bit_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    dls = loaders()
    slots = made("sgd", dls, False).slots
    plain = Slots.update_as_one

    def each(self: Slots, gradients: Any, rate: Any) -> None:
        self.update_each(gradients, [range(K)], [rate])

    def off(self: Slots, gradients: Any, rate: Any) -> None:
        plain(self, gradients, rate)
        for name in gradients:
            first = self.parameters[name].detach().view(-1)[:1]
            first.copy_(torch.nextafter(first, torch.full_like(first, torch.inf)))

    monkeypatch.setattr(Slots, "update_as_one", each)
    assert updates_are_the_same(slots)
    monkeypatch.setattr(Slots, "update_as_one", off)
    assert not updates_are_the_same(slots)


def everything(slots: Slots) -> list[torch.Tensor]:
    return [*slots.tensors.values(), *(value for of in slots.state.values() for value in of.values())]
