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

from lth_trainable import (
    Schedule,
    SparsifyCallback,
    UserError,
    large_final,
    load_ticket,
    save_ticket,
    sched_agp,
    sched_iterative,
    sched_one_shot,
    wanda,
)
from lth_trainable.keep_mask import KeepMask
from tests.plugins import tiny_cnn
from tests.test_sparsify import callback, learner, masked, tensors


def zeros_hold(cb: SparsifyCallback) -> bool:
    return all(bool((weight.detach()[~mask] == 0).all()) for _, weight, mask in masked(cb))


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
    assert zeros_hold(cb) and learn.keep_mask.owner is None


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


def test_tied_weights_count_once_and_frozen_groups_are_pruned(capsys: pytest.CaptureFixture[str]) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
            self.b.weight = self.a.weight

        def forward(self, x: Any) -> Any:
            return self.head(self.b(self.a(x.flatten(1)).relu()).relu())

    torch.manual_seed(0)
    model = Tied()
    for parameter in model.a.parameters():
        parameter.requires_grad_(False)
    learn, cb = learner(model), callback(50, lth=True, verbose=True)
    learn.fit(8, 1e-2, cbs=cb)
    assert [layer.name for layer in cb.pruner.layers] == ["a", "head"] and zeros_hold(cb)
    assert "Left out: b (Linear), shares its weight with a" in capsys.readouterr().out


def test_torchvision_models_with_frozen_groups() -> None:
    from torchvision.models import squeezenet1_1

    from lth_trainable.layers import left_out, prunable_layers

    model = squeezenet1_1(num_classes=10)
    assert len(prunable_layers(model)) == 26 and not left_out(model)
    for parameter in model.features[:3].parameters():
        parameter.requires_grad_(False)
    from fractions import Fraction

    from lth_trainable.pruner import Pruner

    pruner = Pruner(prunable_layers(model), large_final)
    pruner.prune(Fraction(1, 2))
    assert abs(pruner.sparsity_pct - 50) < 0.01


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


@pytest.mark.parametrize("stop", [3, 5, 6])
def test_state_dict_resumes_a_fit_bit_for_bit(stop: int) -> None:
    """A fit cut off after an epoch and taken up by a new learner ends in the same bytes."""

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
        return learner(model, opt_func=Adam), callback(80, lth=True, rewind_epoch=1)

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


def test_a_target_for_each_layer() -> None:
    learn = learner()
    cb = SparsifyCallback({"0": 30, "4": 60}, "weight", "local", large_final, Schedule(sched_agp), verbose=False)
    learn.fit(8, 1e-2, cbs=cb)
    assert cb.pruner.counts == {"0.weight": 54 - 16, "4.weight": 432 - 259} and zeros_hold(cb)
    only = SparsifyCallback({"4*": 50}, "weight", "local", large_final, Schedule(sched_agp), verbose=False)
    learner().fit(8, 1e-2, cbs=only)
    assert list(only.pruner.counts) == ["4.weight"]
    with pytest.raises(UserError, match="sparsity of a layer: found 'conv9'; expected one of 0, 4"):
        learner().fit(8, cbs=SparsifyCallback({"conv9": 50}, "weight", "local", large_final, Schedule(sched_agp)))
    with pytest.raises(UserError, match="nothing to rank together"):
        SparsifyCallback({"0": 50}, "weight", "global", large_final, Schedule(sched_agp))


def test_layers_by_pattern_or_predicate() -> None:
    for select in ("4", ["4"], lambda name, module: getattr(module, "stride", None) == (2, 2)):
        cb = callback(50, layers=select)
        learner().fit(8, 1e-2, cbs=cb)
        assert list(cb.pruner.counts) == ["4.weight"]
    with pytest.raises(UserError, match="found no layer to prune"):
        learner().fit(8, 1e-2, cbs=callback(50, layers="no_such_layer"))


def test_wanda_weighs_by_the_inputs_and_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    learn = learner(model)
    cb = SparsifyCallback(50, "weight", "local", wanda, Schedule(sched_one_shot, start_pct=0.0), verbose=False)
    before = {name: t for name, t in tensors(model).items() if name == "1.weight"}
    learn.fit(1, 1e-9, cbs=cb)
    x = torch.cat([b[0] for b in learn.dls.train.new(shuffle=False)]).flatten(1)
    scores = before["1.weight"].abs() * x.double().square().mean(0).sqrt().float()
    expected = torch.ones(scores.numel(), dtype=torch.bool)
    expected[scores.flatten().argsort(stable=True)[:512]] = False
    assert (cb.pruner.in_force["1.weight"].ravel() == expected.numpy()).mean() > 0.995
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_wanda_on_every_kind_of_layer() -> None:
    from fractions import Fraction

    from lth_trainable.layers import PRUNABLE, prunable_layers
    from lth_trainable.pruner import Pruner

    class All(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
            self.up = nn.ConvTranspose2d(8, 5, 2, stride=2)
            self.head = nn.Linear(5, 2)

        def forward(self, x: Any) -> Any:
            return self.head(self.up(self.grouped(self.first(x))).mean((2, 3)))

    model = All()
    pruner = Pruner(prunable_layers(model, PRUNABLE), wanda)
    pruner.prune(Fraction(1, 2), model, lambda: [torch.randn(4, 3, 8, 8)])
    assert pruner.sparsity_pct == 50 and model.training


@pytest.mark.parametrize("tied", [False, True])
def test_tickets_whose_parts_share_memory_can_be_saved(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    if tied:
        model[3].weight = model[1].weight
    learn, cb = learner(model), callback(50, lth=True, rewind_epoch=0)
    learn.fit(8, 1e-2, cbs=cb)
    back = load_ticket(save_ticket(cb.ticket(), tmp_path / "ticket.safetensors"))
    assert all(torch.equal(back.rewind[name], tensor) for name, tensor in back.initial.items())


def test_dsd_grows_the_best_of_what_it_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the score that each had when it was removed: a removed weight is zero and has none of its own."""
    from fractions import Fraction

    from lth_trainable.layers import prunable_layers
    from lth_trainable.pruner import Pruner

    model = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.8, 0.1, 0.7, 0.2, 0.6, 0.3, 0.5, 0.4]]))
    pruner = Pruner(prunable_layers(model), large_final, regrows=True)
    for sparsity in (Fraction(1, 4), Fraction(3, 4), Fraction(1, 2)):
        pruner.prune(sparsity)
    assert pruner.in_force["weight"].ravel().tolist() == [True, False, True, False, True, False, True, False]


def test_a_network_that_does_not_classify_still_ends_its_fit(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    learn = learner(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), loss_func=lambda p, y: (p[:, 0] - y).square().mean())
    learn.fit(8, 1e-3, cbs=callback(50, lth=True, reset_end=True, verbose=True))
    assert "Final Sparsity: 50.00%" in capsys.readouterr().out


def test_a_ticket_goes_to_a_file_and_back(tmp_path: Path) -> None:
    learn, cb = learner(), callback(80, lth=True, rewind_epoch=1)
    with pytest.raises(UserError, match="pruned nothing yet"):
        cb.ticket()
    start = {name: t.clone() for name, t in learn.model.state_dict().items()}
    learn.fit(8, 1e-2, cbs=cb)
    ticket = cb.ticket()
    path = save_ticket(ticket, tmp_path / "ticket.safetensors")
    back = load_ticket(path)
    assert back.provenance == ticket.provenance and back.provenance["criterion"] == "large_final"
    assert all((back.masks[name] == mask).all() for name, mask in ticket.masks.items())
    for part, expected in (("initial", start), ("final", learn.model.state_dict())):
        assert all(torch.equal(t, expected[name]) for name, t in getattr(back, part).items())
    model = back.apply(tiny_cnn((1, 8, 8), 10), "rewind")
    assert (model.get_parameter("4.weight")[~torch.from_numpy(back.masks["4.weight"])] == 0).all()
    assert save_ticket(back, tmp_path / "again").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "ticket.safetensors"]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read as a ticket"):
        load_ticket(path)
    with pytest.raises(UserError, match="cannot be read as a ticket"):
        load_ticket(tmp_path / "missing")


DDP = """
import os, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from lth_trainable import *
from tests.test_sparsify import learner, callback
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


def test_two_processes_find_the_same_masks(tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = Path(__file__).parent.parent
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", DDP, str(rank), port, str(tmp_path / f"{rank}.pt")], cwd=root,
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


def test_schedules_of_partial_functions_name_themselves() -> None:
    from functools import partial

    assert repr(Schedule(partial(sched_iterative, n_steps=5))) == "Schedule(iterative, start_pct=0.2, end_pct=1)"


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@GPU
@pytest.mark.parametrize("granularity", ["weight", "filter", "kernel", "shared_row", "layer"])
@pytest.mark.parametrize("context", ["local", "global"])
def test_masks_are_equal_on_cpu_and_gpu_and_under_every_memory_format(granularity: str, context: str) -> None:
    from fractions import Fraction

    from torchvision.models import resnet18

    from lth_trainable.criteria import CRITERIA, needs_inputs
    from lth_trainable.layers import prunable_layers
    from lth_trainable.pruner import Pruner

    torch.manual_seed(0)
    model = resnet18(num_classes=2)
    for name, criterion in CRITERIA.items():
        if needs_inputs(criterion):
            continue  # its inputs are activations, which differ between devices
        found = []
        for there in ({"device": "cpu"}, {"device": "cuda"}, {"device": "cuda", "memory_format": torch.channels_last}):
            pruner = Pruner(
                prunable_layers(copy.deepcopy(model).to(**there)), criterion, granularity=granularity, context=context
            )
            with torch.no_grad():
                for layer in pruner.layers:
                    layer.weight.mul_(1.5)
            pruner.prune(Fraction(1, 2))
            found.append(pruner.in_force)
        for other in found[1:]:
            assert all((other[layer] == mask).all() for layer, mask in found[0].items()), name


@GPU
def test_a_trial_on_the_gpu_repeats_itself(tmp_path: Path) -> None:
    from lth_trainable.execution import Execution
    from lth_trainable.run import run_trial
    from lth_trainable.spec import TrialSpec
    from lth_trainable.store import Store

    spec = TrialSpec(target_sparsity_pct=64, epochs=3, rewind_epoch=1)
    first, second = (run_trial(spec, Store(tmp_path), run, Execution(device="cuda")) for run in ("a", "b"))
    assert first["sha256"] == second["sha256"] and first["fingerprint"]["device"].startswith("cuda: ")


@GPU
def test_fp16_with_scaler_on_a_gpu() -> None:
    learn, cb = learner(), callback(80, lth=True)
    learn.dls.to(torch.device("cuda"))
    learn.fit(8, 1e-2, cbs=[cb, MixedPrecision()])
    assert all((w.detach().cpu()[~m] == 0).all() for _, w, m in masked(cb))
