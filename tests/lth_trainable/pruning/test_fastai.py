"""The callback among fastai's own: precision, clipping, saving, exporting, resuming, several processes."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.schedule import fine_tune, fit_one_cycle  # noqa: F401
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.learner import load_learner
from fastai.metrics import accuracy
from fastai.optimizer import Adam
from torch import nn

from lth_trainable import Schedule, SparsifyCallback, UserError, sched_one_shot
from lth_trainable.pruning.keep_mask import KeepMask
from tests.support.callback import callback, learner, masked, tensors, zeros_hold
from tests.support.command import ROOT


@pytest.mark.parametrize("extra", [
    [], [GradientAccumulation(n_acc=460)], [GradientClip(0.5)], [MixedPrecision(amp_mode=AMPMode.BF16)],
], ids=["plain", "accumulation", "clipping", "bf16"])  # fmt: skip
def test_zeros_hold_and_counts_are_exact_with(extra: list[Callback]) -> None:
    learn, cb = learner(), callback(50, lth=True, rewind_epoch=1)
    if extra and isinstance(extra[0], MixedPrecision) and not torch.cuda.is_available():
        extra = [_CpuBf16()]
    learn.fit(8, 1e-2, cbs=[cb, *extra])
    assert zeros_hold(cb) and cb.pruner.sparsity_pct == 50


class _CpuBf16(Callback):
    """bf16 autocast on the CPU; fastai's own MixedPrecision asks for CUDA."""

    order = 10

    def before_batch(self) -> None:
        self.cast = torch.autocast("cpu", dtype=torch.bfloat16)
        self.cast.__enter__()

    def after_loss(self) -> None:
        self.cast.__exit__(None, None, None)


def test_clipping_does_not_count_masked_gradients() -> None:
    norms: dict[bool, list[float]] = {}

    class Norm(Callback):
        order = 12

        def before_step(self) -> None:
            grads = [layer.weight.grad[~mask] for layer, (_, _, mask) in zip(cb.pruner.layers, masked(cb), strict=True)]
            norms.setdefault(bool(cb.pruner.levels), []).append(max(float(g.abs().max()) for g in grads))

    learn, cb = learner(), callback(50, schedule=Schedule(sched_one_shot, start_pct=0.0))
    learn.fit(2, 1e-2, cbs=[cb, GradientClip(1.0), Norm()])
    assert norms[True] and max(norms[True]) == 0.0


def test_one_cycle_fine_tune_and_channels_last() -> None:
    learn, cb = learner(), callback(50, lth=True)
    learn.model.to(memory_format=torch.channels_last)
    learn.fit_one_cycle(8, 1e-2, cbs=cb)
    assert zeros_hold(cb)
    plain, other = learner(), callback(50, lth=True)
    plain.fit_one_cycle(8, 1e-2, cbs=other)
    first, second = (c.pruner.levels[0]["0.weight"] for c in (cb, other))
    assert (first == second).all(), "a memory format changes no mask"
    learn.fine_tune(1, 1e-3)
    assert zeros_hold(cb), "zeros stay through fine-tuning"


def test_the_sparsity_is_a_column_of_fastais_table() -> None:
    learn, cb = learner(metrics=accuracy), callback(50, lth=True)
    learn.fit(8, 1e-2, cbs=cb)
    names = list(learn.recorder.metric_names)
    assert names == ["epoch", "train_loss", "valid_loss", "accuracy", "sparsity", "time"]
    shown = [row[names.index("sparsity") - 1] for row in learn.recorder.values]
    assert shown[0] == 0 and shown[-1] == 50 and sorted(shown) == shown
    assert [m.name for m in learn.metrics] == ["accuracy"]


def test_save_model_and_early_stopping(tmp_path: Path) -> None:
    learn, cb = learner(metrics=accuracy, path=tmp_path), callback(80, lth=True)
    learn.fit(8, 1e-2, cbs=[cb, SaveModelCallback(monitor="valid_loss")])
    assert zeros_hold(cb), "the best epoch may be from before the last prune"
    learn, cb = learner(metrics=accuracy), callback(80, schedule=Schedule(sched_one_shot, start_pct=0.1), lth=True)
    learn.fit(20, 1e-9, cbs=[cb, EarlyStoppingCallback(monitor="accuracy", patience=2, min_delta=0.5)])
    assert len(learn.recorder.values) < 20 and cb.pruner.sparsity_pct == pytest.approx(80, abs=0.2)
    assert zeros_hold(cb) and learn.keep_mask.is_independent


def test_zeros_stay_after_the_fit_until_they_are_released() -> None:
    learn, cb = learner(), callback(50, lth=True)
    learn.fit(8, 1e-2, cbs=cb)
    learn.fit(1, 1e-1)
    assert zeros_hold(cb) and len([c for c in learn.cbs if isinstance(c, KeepMask)]) == 1
    cb.release()
    learn.fit(1, 1e-1)
    assert not zeros_hold(cb) and not [c for c in learn.cbs if isinstance(c, KeepMask)]


def test_a_second_callback_goes_on_from_the_mask_that_is_there() -> None:
    learn, first, second = learner(), callback(50, lth=True), callback(75, lth=True)
    learn.fit(8, 1e-2, cbs=first)
    learn.fit(8, 1e-2, cbs=second)
    for name, mask in second.pruner.in_force.items():
        assert not (mask & ~first.pruner.in_force[name]).any()
    assert len([c for c in learn.cbs if isinstance(c, KeepMask)]) == 1


def test_an_exception_in_mid_fit_leaves_no_mask_behind() -> None:
    class Fails(Callback):
        def after_train(self) -> None:
            if self.learn.epoch == 5:
                raise KeyboardInterrupt

    learn, cb = learner(), callback(80, schedule=Schedule(sched_one_shot, start_pct=0.1))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(20, 1e-2, cbs=[cb, Fails()])
    learn.fit(1, 1e-1)
    assert not zeros_hold(cb), "a fit without the callback trains every weight"
    learn.fit(20, 1e-2, cbs=cb)
    assert zeros_hold(cb) and cb.pruner.sparsity_pct == pytest.approx(80, abs=0.2)


def test_pickling_deepcopy_and_export_keep_the_zeros(tmp_path: Path) -> None:
    learn, cb = learner(path=tmp_path, metrics=accuracy), callback(80, lth=True)
    learn.fit(8, 1e-2, cbs=cb)
    size = len(pickle.dumps(learn.keep_mask.pruner.in_force))
    assert size < 2 * cb.pruner.n_weights
    copied = copy.deepcopy(learn)
    again = pickle.loads(pickle.dumps(learn))
    for other in (copied, again):
        other.fit(1, 1e-1)
        kept = other.keep_mask.pruner
        for layer in kept.layers:
            assert (layer.weight[~torch.from_numpy(kept.in_force[layer.parameter_name])] == 0).all()
            assert layer.weight is other.model.get_parameter(layer.parameter_name)
    learn.export(tmp_path / "model.pkl")
    loaded = load_learner(tmp_path / "model.pkl")
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), learn.model.parameters(), strict=True))


def test_going_on_without_the_callbacks_state_is_refused() -> None:
    for rewind_epoch in (0, 1):
        with pytest.raises(UserError, match=r"start_epoch: found 4.*load_state_dict"):
            learner().fit(12, 1e-2, cbs=callback(80, lth=True, rewind_epoch=rewind_epoch), start_epoch=4)


def test_the_sparsity_column_shows_nothing_after_a_fit_that_broke_off() -> None:
    class Fails(Callback):
        def after_train(self) -> None:
            if self.learn.epoch == 5:
                raise RuntimeError("power cut")

    learn = learner()
    with pytest.raises(RuntimeError):
        learn.fit(20, 1e-2, cbs=[callback(80, lth=True), Fails()])
    learn.fit(1, 1e-2)
    names = list(learn.recorder.metric_names)
    assert learn.recorder.values[-1][names.index("sparsity") - 1] is None


@pytest.mark.parametrize("reset_end", [False, True])
@pytest.mark.parametrize("stop", [3, 5, 6, 12])
def test_state_dict_resumes_a_fit_bit_for_bit(stop: int, reset_end: bool) -> None:
    """A fit cut off after an epoch, the last one too, and taken up by a new learner ends in the same bytes."""

    class Cut(Callback):
        order = 70

        def after_epoch(self) -> None:
            if self.learn.epoch == stop - 1:
                saved.update(copy.deepcopy({
                    "model": self.learn.model.state_dict(), "opt": self.learn.opt.state_dict(), "cb": cb.state_dict(),
                }))  # fmt: skip
                raise KeyboardInterrupt

    def make() -> tuple[Any, SparsifyCallback]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 10))
        return learner(model, opt_func=Adam), callback(80, lth=True, rewind_epoch=1, reset_end=reset_end)

    whole, cb = make()
    whole.fit(12, 1e-2, cbs=cb)
    reference, masks = tensors(whole.model), cb.pruner.levels
    saved: dict[str, Any] = {}
    part, cb = make()
    with pytest.raises(KeyboardInterrupt):
        part.fit(12, 1e-2, cbs=[cb, Cut()])
    resumed, cb = make()
    resumed.create_opt()
    resumed.model.load_state_dict(saved["model"])
    resumed.opt.load_state_dict(saved["opt"])
    resumed.dls.train.epoch = stop
    cb.load_state_dict(pickle.loads(pickle.dumps(saved["cb"])))
    resumed.fit(12, 1e-2, cbs=cb, start_epoch=stop)
    assert all(torch.equal(t, reference[name]) for name, t in tensors(resumed.model).items())
    assert len(cb.pruner.levels) == len(masks)
    assert all((a[n] == b[n]).all() for a, b in zip(cb.pruner.levels, masks, strict=True) for n in a)


DDP = """
import os, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from lth_trainable import *
from tests.support.callback import learner, callback
rank = int(sys.argv[1])
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[2])
dist.init_process_group("gloo", rank=rank, world_size=2)
learn, cb = learner(), callback(80, lth=True, rewind_epoch=1)
learn.dls.train.order_seed = rank
learn.model = DistributedDataParallel(learn.model)
learn.fit(8, 1e-2, cbs=cb)
assert all((l.weight[~torch.from_numpy(cb.pruner.in_force[l.parameter_name])] == 0).all() for l in cb.pruner.layers)
torch.save({"masks": cb.pruner.levels, "names": list(cb.pruner.counts)}, sys.argv[3])
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_find_the_same_masks(tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", DDP, str(rank), port, str(tmp_path / f"{rank}.pt")], cwd=ROOT,
            stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    errors = [process.communicate(timeout=180)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert first["names"] == second["names"] == ["0.weight", "4.weight"], "no prefix of the wrapper"
    assert len(first["masks"]) == len(second["masks"]) == 3
    for ours, theirs in zip(first["masks"], second["masks"], strict=True):
        assert all((ours[name] == theirs[name]).all() for name in ours)
