"""How trials share a GPU: the memory of each, and what records say. Tests with CUDA run on machines that have it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.execution import Execution, no_room
from lth_trainable.training.gpu_memory import fraction_of
from lth_trainable.training.run import run_trial
from lth_trainable.training.sharing import about_gpu, memory_bounded

GIB = 2**30
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(("trials", "total", "gib"), [(1, 80, 80), (8, 80, 9.25), (2, 16, 7.25), (8, 4, 0.25)])
def test_a_share_leaves_room_for_the_contexts_and_is_never_less_than_half(trials: int, total: int, gib: float) -> None:
    assert fraction_of(trials, total * GIB) * total == pytest.approx(gib)


def test_records_of_the_cpu_say_nothing_about_a_gpu(tmp_path: Path) -> None:
    record = run_trial(TrialSpec(control="dense", epochs=1), Store(tmp_path), "r")
    assert about_gpu(Execution()) is None and "gpu" not in record


@with_gpu
def test_a_trial_that_needs_more_than_its_share_fails_and_says_so() -> None:
    execution = Execution(device="cuda", trials_on_gpu=8)
    total = torch.cuda.get_device_properties(0).total_memory
    with memory_bounded(execution):
        torch.empty(total // 16, dtype=torch.uint8, device="cuda")
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(total // 6, dtype=torch.uint8, device="cuda")
        error = no_room(execution, "t")
    assert isinstance(error, UserError) and "1/8 of " in str(error) and "--trials-per-gpu" in str(error)
    torch.empty(total // 6, dtype=torch.uint8, device="cuda")
    torch.cuda.empty_cache()


@with_gpu
def test_the_record_says_how_the_gpu_was_shared_and_its_bytes_do_not_depend_on_it(tmp_path: Path) -> None:
    spec = TrialSpec(target_sparsity_pct=64, epochs=2, rewind_epoch=1)
    alone, shared = (
        run_trial(spec, Store(tmp_path / str(n)), "r", Execution(device="cuda", deterministic=True, trials_on_gpu=n))
        for n in (1, 8)
    )
    assert alone["sha256"] == shared["sha256"] and json.dumps(alone["fingerprint"]) == json.dumps(shared["fingerprint"])
    assert (alone["gpu"]["trials_on_gpu"], shared["gpu"]["trials_on_gpu"]) == (1, 8)
    assert 0 < shared["gpu"]["peak_bytes"] < shared["gpu"]["total_bytes"] and shared["gpu"]["mps"] in (
        True,
        False,
        None,
    )
