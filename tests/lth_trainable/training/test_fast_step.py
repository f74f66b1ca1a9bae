"""A step as one CUDA graph gives the bytes of the step kernel by kernel; the rate in a tensor is the rate."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fastai.callback.core import Callback
from fastai.optimizer import OptimWrapper
from torch import Tensor, nn

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.values import PRECISIONS
from lth_trainable.store.store import Store
from lth_trainable.training.captured import CapturedSteps
from lth_trainable.training.execution import Execution, prepared
from lth_trainable.training.learner import LevelClock
from lth_trainable.training.rate_on_device import RateOnDevice
from lth_trainable.training.run import run_trial
from lth_trainable.training.trial import Trial
from tests.plugins import tiny_cnn
from tests.support.grids import GRIDS

WAITING = "tests.lth_trainable.training.test_fast_step:waiting_cnn"
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one with each step that a graph makes."""
    made: list[Any] = []
    record = CapturedSteps._captured_batch

    def counted(self: CapturedSteps, epoch: Any, size: int) -> Any:
        replay = record(self, epoch, size)
        if replay is not None:
            self._replays[size] = lambda: (made.append(size), replay())
        return self._replays.get(size)

    monkeypatch.setattr(CapturedSteps, "_captured_batch", counted)
    return made


def trained(spec: TrialSpec, folder: Path, step: str, notes: list[str] | None = None) -> dict[str, Any]:
    execution = Execution(device="cuda", deterministic=True, step=step)
    return run_trial(spec, Store(folder / step), "r", execution, on_note=(notes if notes is not None else []).append)


@on_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("grid", GRIDS)
def test_captured_or_eager_the_bytes_are_equal(grid: str, precision: str, tmp_path: Path, replays: list[Any]) -> None:
    specs = list(dict.fromkeys(TrialSpec(**{**fields, "precision": precision}) for fields in GRIDS[grid]))
    notes: list[str] = []
    for spec in specs:
        captured = trained(spec, tmp_path / spec.name, "captured", notes)
        made = len(replays)
        assert captured["sha256"] == trained(spec, tmp_path / spec.name, "eager", notes)["sha256"], spec.name
        assert len(replays) == made, "an eager step was made by a graph"
    if (grid, precision) == ("one_cycle, adam", "fp16"):  # GradScaler asks whether to step, as no kernel does it
        assert not replays and all("waits for the device" in note for note in notes)
    else:
        assert replays and not notes


@on_gpu
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_network_has_the_same_bytes_captured_or_eager_and_others_than_uncompiled(
    precision: str, tmp_path: Path, replays: list[Any]
) -> None:
    fields: dict[str, Any] = {"model": "conv_2", "precision": precision, "batch_size": 230, "epochs": 3}
    spec, notes, found = TrialSpec(**fields, rewind_epoch=1, target_sparsity_pct=64), [], {}
    for step in ("captured", "eager"):
        execution = Execution(device="cuda", deterministic=True, step=step, compile=True)
        found[step] = run_trial(spec, Store(tmp_path / step), "r", execution, on_note=notes.append)
    plain = trained(spec, tmp_path / "plain", "captured")
    assert found["captured"]["sha256"] == found["eager"]["sha256"] != plain["sha256"] and replays and not notes
    assert found["captured"]["fingerprint"] == {**plain["fingerprint"], "compiled": True}
    accuracies = [record["result"]["test_accuracy"] for record in (found["captured"], plain)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.05)


@on_gpu
def test_each_precision_has_bytes_of_its_own_and_fp32_is_ieee(tmp_path: Path) -> None:
    """With a convolution of 64 channels, TF32 differs from fp32; the weights are float32 in all."""
    found = {}
    for precision in PRECISIONS:
        spec = TrialSpec(model="conv_2", control="dense", epochs=1, precision=precision)
        record = trained(spec, tmp_path / precision, "captured")
        found[precision] = record["sha256"]["weights"]
    assert len(set(found.values())) == len(PRECISIONS)


@on_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_trial_that_goes_on_from_a_state_has_the_bytes_of_one_that_was_not_stopped(
    precision: str, tmp_path: Path
) -> None:
    """Moments of channels_last weights and the scale of the loss are in the state."""
    fields: dict[str, Any] = {"model": "conv_2", "precision": precision, "rewind_epoch": 1, "target_sparsity_pct": 64}
    whole = trained(TrialSpec(**fields, epochs=3), tmp_path / "whole", "captured")
    for target in (40, 64):  # the second goes on from the states of the first
        parts = trained(
            TrialSpec(**{**fields, "target_sparsity_pct": target}, epochs=3), tmp_path / "parts", "captured"
        )
    assert parts["sha256"] == whole["sha256"]


@on_gpu
def test_all_steps_but_the_first_of_a_shape_are_captured(tmp_path: Path, replays: list[Any]) -> None:
    spec = TrialSpec(control="dense", epochs=3, batch_size=230, optimizer="sgd", lr=0.05)
    record = trained(spec, tmp_path, "captured")
    assert sum(row["iterations"] for row in record["epochs"]) == 15 and len(replays) == 14


class Batches(Callback):
    """Acts around each batch, and does not say when."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, bool, float]] = []

    def after_batch(self) -> None:
        self.seen.append((len(self.learn.xb[0]), self.learn.training, float(self.learn.loss)))


@on_gpu
def test_a_callback_around_each_batch_gets_them_all_with_their_losses() -> None:
    found = []
    for step in ("captured", "eager"):
        execution, witness = Execution(device="cuda", deterministic=True, step=step), Batches()
        with prepared(execution, "fp32"):
            spec = TrialSpec(control="dense", epochs=3, batch_size=230)
            trial = Trial(spec, load_dataset("digits"), execution, None)
            trial.fit(0, 3, LevelClock(), witness)
        found.append(witness.seen)
    assert found[0] == found[1] and len(found[0]) == 3 * (5 + 1)


def waiting_cnn(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """A network that asks the device for a number in each pass, which no graph can hold."""
    return nn.Sequential(tiny_cnn(shape, n_classes), _Waits())


class _Waits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1.0 if float(x.sum()) < float("inf") else 0.0)


@on_gpu
def test_a_network_that_cannot_be_captured_is_trained_eagerly_and_that_is_told(tmp_path: Path) -> None:
    spec = TrialSpec(
        model=WAITING,
        batch_size=230,
        epochs=3,
        target_sparsity_pct=64,
    )
    notes: list[str] = []
    captured = trained(spec, tmp_path, "captured", notes)
    (note,) = notes
    assert note.startswith(f"a step of {WAITING} cannot be captured as a CUDA graph")
    assert captured["sha256"] == trained(spec, tmp_path, "eager")["sha256"]
    after = trained(TrialSpec(epochs=3, target_sparsity_pct=64), tmp_path / "after", "captured", notes)
    assert after["status"] == "done" and len(notes) == 1  # the device works on


def test_another_way_to_make_steps_is_refused() -> None:
    with pytest.raises(UserError, match="step: found 'fast'; expected captured or eager"):
        Execution(step="fast")


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_the_rate_in_a_tensor_trains_as_the_rate_does(kind: type[torch.optim.Optimizer]) -> None:
    """Rates that float32 holds exactly give the same bytes; the tensor is one and the same throughout."""
    torch.manual_seed(0)
    x, y, model = torch.randn(16, 4), torch.randn(16, 3), nn.Linear(4, 3)
    found = []
    for wrapper in (OptimWrapper, RateOnDevice):
        network = copy.deepcopy(model)
        optimizer = wrapper(network.parameters(), opt=partial(kind, fused=True, weight_decay=0.25), lr=2**-4)
        first = optimizer.opt.param_groups[0]["lr"]
        start = copy.deepcopy(optimizer.state_dict())
        for rate in (2**-4, 2**-5, 2**-5, 2**-3):
            optimizer.set_hyper("lr", rate)
            assert optimizer.hypers[-1]["lr"] == rate
            optimizer.zero_grad()
            (network(x) - y).square().mean().backward()
            optimizer.step()
        found.append(network.weight.detach().clone())
        optimizer.load_state_dict(start)
        assert optimizer.hypers[-1]["weight_decay" if "weight_decay" in optimizer.hypers[-1] else "wd"] == 0.25
        if wrapper is RateOnDevice:
            assert optimizer.opt.param_groups[0]["lr"] is first and optimizer.hypers[-1]["lr"] == 2**-3
            assert torch.is_tensor(first) and float(first) == 2**-3
    assert torch.equal(*found)
