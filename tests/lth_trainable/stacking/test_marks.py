"""What a stack keeps at marks is what Python would keep that compares mean losses one after another."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lth_trainable.stacking.marks import AtMark, Marks
from lth_trainable.stacking.optimisers import update_of
from lth_trainable.stacking.run import Run
from lth_trainable.stacking.slots import Slots
from lth_trainable.training.execution import Execution, prepared
from tests.support.stacks import copied, loaders, member, optimizer_for, run_of, stack_of, tensors_of

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]
K, N = 4, 3
NAN, INF = math.nan, math.inf
BELOW, ABOVE = math.nextafter(6.0, 0.0), math.nextafter(6.0, INF)
SUMS: dict[str, tuple[float, list[float]]] = {  # lowest mean before, and the sums of losses at marks
    "falls": (INF, [9, 6, 3]), "rises": (INF, [3, 6, 9]), "ties": (INF, [6, 6, 3, 3]), "zero": (INF, [0, 0]),
    "not a number": (INF, [NAN, 6, NAN, 3]), "never a number": (INF, [NAN, NAN]), "infinite": (INF, [INF, 6, -INF, 3]),
    "never finite": (INF, [INF, -INF]), "an earlier one ties": (2, [6, 9]), "an earlier one is lower": (1, [6, 9]),
    "the least bit": (INF, [6, BELOW]), "the least bit below an earlier one": (2, [6, BELOW, 6]),
    "a sum that is lower only before it is divided": (INF, [math.nextafter(ABOVE, INF), ABOVE]),
}  # fmt: skip


def run_with(marks: dict[int, bool], lowest: float, n: int) -> Run:
    return Run(
        order=torch.zeros(n, dtype=torch.int64), sizes=(1,) * n, draws=None, rates=(0.1,) * n, seeds=(0,) * n,
        marks=marks, lowest=lowest,
    )  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("of", SUMS)
def test_kept_is_the_first_of_the_lowest_finite_losses(of: str, device: str) -> None:
    """In slot 1 every mark counts, in slot 2 every second one, in slot 3 none, in slot 0 nobody is."""
    before, sums = SUMS[of]
    model = nn.BatchNorm1d(2).to(device)  # it has a buffer of whole numbers
    marks = Marks(Slots(model, update_of(optimizer_for("sgd", model)), K), 10, torch.device(device))
    batches = [2 * i + 1 for i in range(len(sums))]
    may_keep: dict[int, dict[int, bool]] = {
        1: dict.fromkeys(batches, True), 2: {batch: i % 2 == 0 for i, batch in enumerate(batches)}, 3: {},
    }  # fmt: skip
    runs = {slot: run_with(own, before, 2 * len(sums)) for slot, own in may_keep.items()}
    assert list(marks.begin(runs, N)) == batches
    for number, loss in enumerate(sums):
        for value in marks.slots.tensors.values():
            with torch.no_grad():
                value.fill_(number + 1)
        marks.take(torch.tensor([[loss, number]] * K, dtype=torch.float64, device=device))
    found = marks.read(runs)
    for slot, own in may_keep.items():
        lowest, kept, expected = before, 0, list[AtMark]()
        for number, (batch, loss) in enumerate(zip(batches, sums, strict=True)):
            is_lower = own.get(batch, False) and math.isfinite(loss) and loss / N < lowest
            lowest, kept = (loss / N, number + 1) if is_lower else (lowest, kept)
            if batch in own:
                expected.append(AtMark(float(loss), float(number), is_lower))
        assert list(map(repr, found[slot])) == list(map(repr, expected))
        values = {float(value.double().mean()) for value in marks.kept_of(slot).values()}
        assert kept == 0 or values == {kept}, "weights and buffers are not those of the mark"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("network", ["lenet_300_100", "resnet20", "with_dropout"])
def test_marks_change_no_byte_and_are_what_stopping_there_finds(network: str, device: str) -> None:
    """Twice, so that graphs are captured and replayed; slot 0 has marks of its own."""
    with prepared(Execution(device=device, deterministic=True), "fp32"):
        compare(network, device)


def compare(network: str, device: str) -> None:
    dls = loaders(device, channels_last=device == "cuda")
    stack = stack_of(member(network, 50, "sgd", dls.train), dls, 3)
    for seed in (1, 2, 3):
        own, run = member(network, seed, "sgd", dls.train), run_of(dls.train, seed)
        inside, outside = copied(own), copied(own)
        stack.load_all({1: outside})
        measured, weights, losses, rest = [], [], [], run
        for n in (2, 1, 3):
            first, rest = rest.split(n)
            losses.append(stack.train({1: first})[1])
            stack.unload_all({1: outside})
            measured.append(stack.evaluate([1], dls.valid)[1][:2])
            weights.append({name: value.clone() for name, value in tensors_of(outside).items()})
        marks = {2: True, 3: True, 6: False}
        runs = {1: with_marks(run, marks), 0: with_marks(run_of(dls.train, 9), {5: True})}
        stack.load_all({1: inside, 0: member(network, 7, "sgd", dls.train)})
        assert torch.equal(stack.train(runs, dls.valid)[1], torch.cat(losses))
        found = stack.at_marks(runs)
        assert [at[:2] for at in found[1]] == measured and len(found[0]) == 1
        kept = stack.kept({1: inside.model})[1]
        stack.unload_all({1: inside})
        lower = measured[1][0] < measured[0][0]
        assert [at.is_kept for at in found[1]] == [True, lower, False]
        assert kept.keys() >= inside.model.state_dict().keys()
        for name, value in kept.items():
            expected = weights[lower].get(name, dict(outside.model.named_buffers()).get(name))
            assert expected is not None and torch.equal(value, expected), name
        for name, value in tensors_of(inside).items():
            assert torch.equal(value, weights[2][name]), name
    assert device == "cpu" or stack.refusal is None


def with_marks(run: Run, marks: dict[int, bool]) -> Run:
    return Run(
        order=run.order, sizes=run.sizes, draws=run.draws, rates=run.rates, seeds=run.seeds, marks=marks
    )  # fmt: skip


def test_a_run_is_split_with_its_marks() -> None:
    first, rest = run_with({2: True, 3: False, 5: True}, 0.5, 6).split(3)
    assert (first.marks, first.lowest) == ({2: True, 3: False}, 0.5)
    assert (rest.marks, rest.lowest) == ({2: True}, 0.5)
