"""Precision is what the spec says: set within a trial and put back after it; weights stay fp32."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.store.trials import load_trial
from lth_trainable.training.execution import Execution, execution_like, prepared
from lth_trainable.training.rate_on_device import SCALER, RateOnDevice
from lth_trainable.training.run import run_trial


def settings() -> tuple[Any, ...]:
    return (
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
    )  # fmt: skip


@pytest.mark.parametrize("allowed", [True, False])
def test_fp32_is_set_within_a_trial_and_put_back_also_after_an_error(
    allowed: bool, request: pytest.FixtureRequest
) -> None:
    for flags in (torch.backends.cuda.matmul, torch.backends.cudnn):
        request.addfinalizer(functools.partial(setattr, flags, "allow_tf32", flags.allow_tf32))
        flags.allow_tf32 = allowed
    before = settings()
    with pytest.raises(KeyError), prepared(Execution(threads=1), "fp32"):
        assert settings()[:3] == (False, False, 1)
        raise KeyError
    assert settings() == before


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_precision_of_gpus_is_refused_on_a_cpu(precision: str, tmp_path: Path) -> None:
    spec = TrialSpec(control="dense", epochs=1, precision=precision)
    with pytest.raises(UserError, match=f"precision {precision}: found the device cpu; expected an NVIDIA GPU"):
        run_trial(spec, Store(tmp_path))


def test_bf16_on_a_cpu_has_other_bytes_repeats_them_and_keeps_weights_in_fp32(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"target_sparsity_pct": 40, "epochs": 2, "rewind_epoch": 1}
    found = {}
    for name in ("fp32", "bf16", "again"):
        spec = TrialSpec(**fields, precision="bf16" if name == "again" else name)
        record = run_trial(spec, Store(tmp_path / name), "r")
        found[name] = record["sha256"]
        weights = load_trial(tmp_path / name / "r" / "trials" / spec.name).state_dict()
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
        assert record["result"]["test_accuracy"] > 0.5
    assert found["bf16"] == found["again"] and found["bf16"]["weights"] != found["fp32"]["weights"]


def test_the_memory_format_of_a_fingerprint_is_that_of_the_execution_that_repeats_it() -> None:
    found = {"device": "cuda: X", "threads": 1, "deterministic": True, "memory_format": "contiguous"}
    assert execution_like(found, None).memory_format == "contiguous"
    with pytest.raises(UserError, match="memory_format: found 'rows'; expected channels_last or contiguous"):
        Execution(memory_format="rows")


def test_the_scale_of_the_loss_is_stored_with_the_optimiser_and_returns_with_it() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    optimizer = RateOnDevice([parameter], opt=torch.optim.SGD, lr=0.1, momentum=0.9, scaler=scaler)
    start = optimizer.state_dict()
    assert SCALER not in start["state"], "nothing is stored before the first step"

    def train(gradient: float) -> None:
        scaler.scale((parameter * gradient).sum()).backward()
        optimizer.step()
        parameter.grad = None

    train(1.0)
    one = optimizer.state_dict()
    train(1.0)
    assert scaler.get_scale() == 16.0
    weights = parameter.detach().clone()
    train(float("inf"))
    assert scaler.get_scale() == 8.0 and torch.equal(parameter, weights), "a step that overflows changes no weight"
    optimizer.load_state_dict(one)
    assert float(one["state"][SCALER]["scale"]) == 8.0 and scaler.get_scale() == 8.0
    train(1.0)
    assert scaler.get_scale() == 16.0, "the steps since the last overflow return too"
    optimizer.clear_state()
    assert scaler.get_scale() == 8.0, "that of a new scaler of its kind"


def test_moments_are_laid_out_as_the_weights_are_whatever_the_file_has() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last))
    optimizer = RateOnDevice([weight], opt=torch.optim.AdamW, lr=0.1)
    (weight * torch.arange(48.0).view(4, 3, 2, 2)).sum().backward()
    optimizer.step()
    stored = optimizer.state_dict()
    rows = {name: value.contiguous() for name, value in stored["state"][0].items()}
    optimizer.load_state_dict({**stored, "state": {0: rows}})
    for name in ("exp_avg", "exp_avg_sq"):
        found = optimizer.opt.state[weight][name]
        assert found.stride() == weight.stride() and torch.equal(found, rows[name])


def test_settings_by_their_new_names_are_put_back_too() -> None:
    """In a process of its own: afterwards the old names cannot be read any more."""
    code = """if True:
        import torch
        from lth_trainable.training.execution import Execution, prepared
        flags = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
        for one in flags: one.fp32_precision = "tf32"
        with prepared(Execution(), "fp32"):
            assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
        print([one.fp32_precision for one in flags])
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == str(["tf32"] * 3), run.stderr
