"""A member of a stack gets the same bytes in every slot and company, and what it would get alone but for rounding."""

from __future__ import annotations

import contextlib
import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lth_trainable.stacking import functions
from lth_trainable.stacking.batches import Batches
from lth_trainable.stacking.dropout import SeededDropout, keep
from lth_trainable.stacking.independence import check_independence
from lth_trainable.stacking.network import StackedNetwork
from lth_trainable.stacking.optimisers import update_of
from lth_trainable.stacking.passes import passes_of
from lth_trainable.stacking.run import NotStackable, Run
from lth_trainable.stacking.slots import Member, Slots
from lth_trainable.stacking.stack import Stack
from tests.support.stacks import (
    CLASSES,
    NETWORKS,
    copied,
    differing,
    diverged,
    loaders,
    member,
    optimizer_for,
    run_of,
    stack_of,
    tensors_of,
    trained,
)

K = 3


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("network", NETWORKS)
def test_bytes_depend_on_neither_slot_nor_company(network: str, optimizer: str) -> None:
    """Alone in slot 0, last among others with other rates, and beside a member whose weights are NaN."""
    dls = loaders(augment="flip_shift" if network == "conv_2" else "none")
    own, run = member(network, 1, optimizer), run_of(dls.train, 1)
    stack = stack_of(member(network, 50, optimizer), dls, K)
    alone = trained(stack, {0: own}, {0: run}, dls)[0]
    strangers = {slot: member(network, 10 + slot, optimizer) for slot in range(K - 1)}
    full = trained(
        stack, {**strangers, K - 1: own}, {0: run_of(dls.train, 5), 1: run_of(dls.train, 6, 0.02), K - 1: run}, dls
    )
    assert not differing(alone, full[K - 1])
    beside_nan = trained(stack, {1: own, 2: diverged(network, optimizer)}, {1: run, 2: run_of(dls.train, 8)}, dls)
    assert not differing(alone, beside_nan[1])
    assert differing(alone, full[0]), "members with other weights came out equal"


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_member_trains_as_it_would_alone(network: str, optimizer: str) -> None:
    """But for rounding, which may switch a ReLU: a few hundredths of a tensor. Mistakes are about 1."""
    dls = loaders(augment="flip_shift")
    stack = stack_of(member(network, 50, optimizer), dls, K)
    own, run = member(network, 1, optimizer), run_of(dls.train, 1, {"sgd": 0.003, "adamw": 1e-5}[optimizer])
    inside, outside = copied(own), copied(own)
    stack.load_all({1: inside, 2: member(network, 2, optimizer)})
    losses = stack.train({1: run, 2: run_of(dls.train, 2)})
    assert stack.evaluate([1], dls.valid)[1][:2] == stack.evaluate([1, 2], dls.valid)[1][:2]
    stack.unload_all({1: inside})
    total = plain_epoch(outside, run, dls)
    assert float(losses[1] @ torch.tensor(run.sizes).float()) == pytest.approx(total, rel=1e-4)
    before, found, expected = (tensors_of(one) for one in (own, inside, outside))
    assert found.keys() == expected.keys()
    for name, value in expected.items():  # AdamW makes a whole step of a gradient that is zero but for rounding
        moved = (value - before.get(name, torch.zeros_like(value))).double().norm()
        assert (found[name] - value).double().norm() <= 0.1 * moved + 1e-6, name
    for name, factor in own.factors.items():
        assert not inside.model.get_parameter(name)[factor == 0].any()


def plain_epoch(own: Member, run: Run, dls: Any) -> float:
    """The same batches in plain PyTorch; returns the sum of the losses."""
    total, begin = 0.0, 0
    own.model.train()
    for size, rate, seed in zip(run.sizes, run.rates, run.seeds, strict=True):
        own.optimizer.param_groups[0]["lr"] = rate
        x, y = dls.train.batch(run.order[begin : begin + size], run.draws)
        begin += size
        with SeededDropout(torch.tensor(seed)):
            loss = F.cross_entropy(own.model(x), y)
        loss.backward()
        own.optimizer.step()
        own.optimizer.zero_grad()
        with torch.no_grad():
            for name, factor in own.factors.items():
                own.model.get_parameter(name).mul_(factor)
        total += float(loss) * size
    return total


def test_evaluation_is_that_of_the_network_alone() -> None:
    dls = loaders()
    members = {slot: member("resnet20", slot) for slot in range(K)}
    stack = stack_of(members[0], dls, K)
    stack.load_all(members)
    found = stack.evaluate([0, 2], dls.valid)
    assert set(found) == {0, 2}
    for slot, (loss, correct, right) in found.items():
        output = members[slot].model.eval()(dls.valid.x)
        assert torch.equal(right, output.argmax(1) == dls.valid.y) and correct == right.sum()
        assert loss == pytest.approx(float(F.cross_entropy(output, dls.valid.y, reduction="sum")), rel=1e-4)


def test_the_templates_are_not_changed() -> None:
    dls, own = loaders(), member("resnet20", 1)
    before = copy.deepcopy(tensors_of(own))
    stack = stack_of(own, dls, K)
    stack.train({0: run_of(dls.train, 1)})
    after = tensors_of(own)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_mask_is_of_one_member_and_of_one_load() -> None:
    """A member without a mask has none in a slot that had one."""
    dls = loaders()
    stack = stack_of(member("lenet_300_100", 1), dls, K)
    masked = member("lenet_300_100", 2)
    without = Member(model=copy.deepcopy(masked.model), optimizer=optimizer_for("sgd", masked.model))
    without = Member(model=without.model, optimizer=optimizer_for("sgd", without.model))
    stack.load_all({0: masked, 1: without})
    stack.load_all({0: without, 1: without})
    stack.train({0: run_of(dls.train, 1)})
    stack.unload_all({0: without})
    name = next(iter(masked.factors))
    assert without.model.get_parameter(name)[masked.factors[name] == 0].all()


class Counting(nn.Sequential):
    steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        return super().forward(x)


class Drawing(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(1)


class Choosing(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return found if found.sum() > 0 else -found


class Shuffling(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * random.choice((1.0, 2.0))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Counting, "would share: steps"), (Drawing, "random"), (Choosing, "vmap cannot"), (Shuffling, "Python's random")],
)
def test_a_network_that_cannot_be_stacked_is_refused_with_the_reason(kind: type[nn.Sequential], reason: str) -> None:
    model = kind(nn.Flatten(), nn.Linear(768, 10))
    stream = random.getstate()
    with pytest.raises(NotStackable, match=reason):
        Stack(model, optimizer_for("sgd", model), loaders().train, nn.CrossEntropyLoss(), "fp32", 2)
    assert random.getstate() == stream


def test_a_stack_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one in which the members' dense layers are mixed up."""
    rule = functions._LINEAR.rule

    def mixed_up(k: int, axes: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return rule(k, axes, x.roll(1, axes[0]), weight, bias)

    monkeypatch.setattr(functions._LINEAR, "rule", mixed_up)
    with pytest.raises(NotStackable, match="further from the exact ones in a stack"):
        stack_of(member("lenet_300_100", 1), loaders(), K)


class Single(nn.Sequential):
    """Has no double precision."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) @ torch.eye(10, dtype=torch.float32)


def test_a_network_of_single_precision_alone_is_stacked() -> None:
    model = Single(nn.Flatten(), nn.Linear(768, 10))
    Stack(model, optimizer_for("sgd", model), loaders().train, nn.CrossEntropyLoss(), "fp32", K)


def test_other_optimisers_and_fp16_are_refused() -> None:
    dls, own = loaders(), member("lenet_300_100", 1)
    with pytest.raises(NotStackable, match="fp16"):
        stack_of(own, dls, 2, "fp16")
    for optimizer, reason in (
        (torch.optim.Adagrad(own.model.parameters()), "Adagrad"),
        (torch.optim.SGD(own.model.parameters(), momentum=0.9, dampening=0.1), "dampening"),
        (torch.optim.AdamW(own.model.parameters(), amsgrad=True), "amsgrad"),
    ):
        with pytest.raises(NotStackable, match=reason):
            Stack(own.model, optimizer, dls.train, nn.CrossEntropyLoss(), "fp32", 2)


def test_a_member_whose_optimiser_has_other_settings_is_refused() -> None:
    """But for the learning rate, which each run brings along."""
    own, other = member("lenet_300_100", 1), member("lenet_300_100", 2)
    stack = stack_of(own, loaders(), 2)
    other.optimizer.param_groups[0]["lr"] = 7.0
    stack.load_all({0: own, 1: other})
    other.optimizer.param_groups[0]["momentum"] = 0.5
    with pytest.raises(ValueError, match=r"slot 1: found an optimiser with .*0\.5.* expected .*0\.9"):
        stack.load_all({0: own, 1: other})


def test_runs_of_other_batches_are_refused() -> None:
    dls, own = loaders(), member("lenet_300_100", 1)
    stack, run = stack_of(own, dls, 2), run_of(dls.train, 1)
    shorter = Run(order=run.order[:8], sizes=(8,), draws=None, rates=(0.1,), seeds=(1,))
    with pytest.raises(ValueError, match="expected the same in all"):
        stack.train({0: run, 1: shorter})
    with pytest.raises(ValueError, match="images, rates and seeds"):
        Run(order=run.order[:8], sizes=(8, 8), draws=None, rates=(0.1,), seeds=(1,))


def test_dropout_masks_have_the_probability_and_are_unrelated() -> None:
    n = 200_000
    masks = [keep(torch.tensor(seed), call, (n,), 0.3) for seed in (0, 1, 2**62) for call in (1, 2)]
    for mask in masks:
        assert abs(float(mask.float().mean()) - 0.7) < 6 * (0.3 * 0.7 / n) ** 0.5
        assert abs(float((mask[1:] == mask[:-1]).float().mean()) - 0.58) < 0.01  # neighbours: 0.7^2 + 0.3^2
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert abs(float((mask == other).float().mean()) - 0.58) < 0.01


@pytest.mark.parametrize("training", [True, False])
def test_kernels_in_which_members_that_are_not_finite_reach_others_are_found(training: bool) -> None:
    class Leaking(StackedNetwork):
        def __call__(self, *args: Any) -> Any:
            predictions, replaced = super().__call__(*args)
            leak = 0 * predictions.sum(0) if self.module.training == training else 0
            return predictions + leak, replaced

    dls, own = loaders(), member("lenet_300_100", 1)
    slots, batches = Slots(own.model, update_of(own.optimizer), K), Batches(dls.train, K, side_by_side=False)
    sound, leaking = (
        passes_of(kind(own.model, F.cross_entropy), batches.axis, slots.trained, contextlib.nullcontext)
        for kind in (StackedNetwork, Leaking)
    )
    check_independence(sound, slots, batches)
    with pytest.raises(NotStackable, match="a member that diverges would change others"):
        check_independence(leaking, slots, batches)


class _OddInEvaluation(nn.Module):
    """A network that a step shows nothing odd of."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.dense, self.how, self.n = nn.Linear(3 * 16 * 16, CLASSES), how, 0

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.dense(x.flatten(1))
        if self.training:
            return found
        if self.how == "branches" and found.sum().item() > 0:
            return -found
        self.n += self.how == "counts"
        return found


@pytest.mark.parametrize(("how", "why"), [("branches", "torch.func.vmap cannot run it"), ("counts", "its evaluation")])
def test_a_network_whose_evaluation_cannot_be_stacked_is_refused(how: str, why: str) -> None:
    network = _OddInEvaluation(how)
    with pytest.raises(NotStackable, match=why):
        stack_of(Member(model=network, optimizer=optimizer_for("sgd", network)), loaders(), K)
