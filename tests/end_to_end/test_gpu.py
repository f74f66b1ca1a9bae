"""What only a GPU can show: its masks are the CPU's, its trials repeat themselves, fp16 keeps the zeros."""

from __future__ import annotations

import copy
import json
import shutil
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from fastai.callback.fp16 import MixedPrecision
from torchvision.models import resnet18

from lth_trainable.pruning.criteria import CRITERIA, needs_inputs
from lth_trainable.pruning.layers import prunable_layers
from lth_trainable.pruning.pruner import Pruner
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.store.trials import load_masks, load_trial
from lth_trainable.training.execution import Execution
from lth_trainable.training.run import run_trial
from tests.support.callback import callback, learner, masked
from tests.support.command import grid, hashes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("granularity", ["weight", "filter", "kernel", "shared_row", "layer"])
@pytest.mark.parametrize("context", ["local", "global"])
def test_masks_are_equal_on_cpu_and_gpu_and_under_every_memory_format(granularity: str, context: str) -> None:
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


def test_a_trial_on_the_gpu_repeats_itself(tmp_path: Path) -> None:
    spec = TrialSpec(target_sparsity_pct=64, epochs=3, rewind_epoch=1)
    first, second = (run_trial(spec, Store(tmp_path), run, Execution(device="cuda")) for run in ("a", "b"))
    assert first["sha256"] == second["sha256"] and first["fingerprint"]["device"].startswith("cuda: ")


@pytest.mark.parametrize("control", ["random_mask", "random_sparse"])
def test_what_chance_draws_is_the_same_on_every_device(control: str, tmp_path: Path) -> None:
    """Masks of these controls depend on counts alone, and a new initialisation is drawn on the CPU."""
    spec, run = TrialSpec(target_sparsity_pct=64, epochs=2, rewind_epoch=1, control=control), "r"
    records = [
        run_trial(spec, Store(tmp_path / device), run, Execution(device=device, deterministic=True))
        for device in ("cpu", "cuda")
    ]
    masks, initial = [], []
    for record, device in zip(records, ("cpu", "cuda"), strict=True):
        store = Store(tmp_path / device)
        folder = store.find(store.trial(run, spec.name))
        assert folder is not None and record["status"] == "done"
        masks.append(load_masks(store, folder)[2])
        initial.append(load_trial(tmp_path / device / run / "trials" / spec.name, "initial").state_dict())
    assert all((masks[0][name] == masks[1][name]).all() for name in masks[0])
    assert all(torch.equal(initial[0][name], initial[1][name]) for name in initial[0])


def test_fp16_with_scaler_on_a_gpu() -> None:
    learn, cb = learner(), callback(80, lth=True)
    learn.dls.to(torch.device("cuda"))
    learn.fit(8, 1e-2, cbs=[cb, MixedPrecision()])
    assert all((w.detach().cpu()[~m] == 0).all() for _, w, m in masked(cb))


def test_trials_that_break_the_gpu_or_its_memory_fail_and_the_others_go_on(tmp_path: Path) -> None:
    """Each is tried again on a new worker, because nothing can use the GPU in the process of a failed kernel."""
    bad = "tests.support.bad_trials:with_gpu_"
    code, summary, out, err = grid(
        tmp_path, "--epochs", "1", "--schedule", "omp", "--sparsity", "50", "--rewind-epoch", "0", "--seeds", "1",
        "--model", "lenet_300_100", f"{bad}memory", f"{bad}assert", "--max-concurrent", "2", "--gpus-per-trial", "0.5",
    )  # fmt: skip
    assert code == 1 and (summary["done"], summary["failed"]) == (4, 2), out + err
    failed = dict(line.split("-omp-s50-r0-e1-seed0: ", 1) for line in out.splitlines() if line.startswith("failed: "))
    of = "failed: digits-tests.support.bad_trials.with_gpu_"
    assert (
        failed[f"{of}memory"].startswith("digits-tests")
        and "found no memory left on device cuda" in failed[f"{of}memory"]
    )
    assert "device-side assert triggered" in failed[f"{of}assert"] and failed[f"{of}assert"].endswith("(twice)")
    assert "Traceback" not in out + err


def test_trials_that_share_a_gpu_through_mps_have_the_bytes_of_those_alone(tmp_path: Path) -> None:
    """With the machine's own MPS, if it has one, and without; and with the number that the first trial leads to."""
    flags = ("--epochs", "2", "--schedule", "omp", "--sparsity", "50", "--rewind-epoch", "0", "--seeds", "4",
             "--controls", "none", "--deterministic")  # fmt: skip
    ways = {"alone": ("--trials-per-gpu", "1"), "mps": ("--trials-per-gpu", "4"), "auto": ("--trials-per-gpu", "auto"),
            "turns": ("--trials-per-gpu", "4", "--mps", "off")}  # fmt: skip
    found, shared = {}, {}
    for name, way in ways.items():
        code, summary, out, err = grid(tmp_path / name, *flags, *way)
        assert code == 0 and summary["done"] == 8, out + err
        found[name] = hashes(tmp_path / name)
        records = (tmp_path / name / "digits" / "trials").glob("*/record.json")
        shared[name] = [entry for file in records if (entry := json.loads(file.read_text()).get("gpu"))]
        assert shared[name] and all(0 < entry["peak_bytes"] < entry["total_bytes"] for entry in shared[name])
    assert found["alone"] == found["mps"] == found["turns"] == found["auto"]
    assert {entry["trials_on_gpu"] for entry in shared["mps"]} == {4}
    assert not any(entry["mps"] for entry in shared["turns"]), "--mps off"
    if shutil.which("nvidia-cuda-mps-control"):
        assert all(entry["mps"] in (True, None) for entry in shared["mps"])
