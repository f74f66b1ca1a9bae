"""`profile`: a trial's time by part, in its record and nowhere else."""

from __future__ import annotations

import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from analysis.report.profile import profile_view
from analysis.tables.profile_schema import profile_columns, profile_values
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stopwatch import PARTS, current
from lth_trainable.store.contents import read_record
from lth_trainable.store.store import Damaged, Store, to_json
from lth_trainable.training import profile
from lth_trainable.training.execution import Execution, fingerprint
from lth_trainable.training.profile import covered, multiply_adds, peak_of
from lth_trainable.training.run import run_trial

TICKET = {"target_sparsity_pct": 64, "epochs": 2, "rewind_epoch": 1, "batch_size": 230}
FIT = {"schedule": "one_shot", "target_sparsity_pct": 50, "epochs": 2, "batch_size": 230}


def trained(store: Store, fields: dict[str, Any], wanted: bool = True) -> dict[str, Any]:
    return run_trial(TrialSpec(**fields), store, execution=Execution(profile=wanted))


def test_the_parts_add_up_and_each_has_its_time(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning, module="fastai")  # such as of names used twice
        record = trained(Store(tmp_path), TICKET)
    found = record["profile"]
    seconds = found["seconds"]
    assert set(seconds) == set(PARTS) and all(value >= 0 for value in seconds.values())
    assert sum(seconds.values()) == pytest.approx(found["wall_seconds"], abs=1e-6)
    assert found["wall_seconds"] >= record["train_seconds"]
    for part in ("data", "network", "training", "validation", "pruning", "storing", "measuring"):
        assert seconds[part] > 0, part
    assert seconds["capture"] == seconds["waiting"] == 0  # no GPU, no Ray
    assert found["kernel_share"] is None
    assert current() is None


def test_validation_is_not_part_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With networks that take long only in evaluation, most of the time is validation, within fits too."""

    class Slow(nn.Flatten):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training:
                time.sleep(0.05)
            return super().forward(x)

    monkeypatch.setattr("tests.plugins.tiny_cnn", lambda shape, n: nn.Sequential(Slow(), nn.Linear(64, n)))
    for more, evaluations in (({}, 5), ({"validate_every": 1}, 13)):  # two splits at the end, and the best point
        spec = {**FIT, "model": "tests.plugins:tiny_cnn", **more}
        seconds = trained(Store(tmp_path / str(evaluations)), spec)["profile"]["seconds"]
        assert seconds["validation"] >= evaluations * 0.05
        assert seconds["training"] < seconds["validation"]


def test_the_floor_is_the_arithmetic_of_what_was_trained(tmp_path: Path) -> None:
    """LeNet-300-100 on digits has 50,200 weights; 1,150 images; 2 + 1 + 1 epochs, of which the second trial has 1."""
    store = Store(tmp_path)
    first = trained(store, {**TICKET, "target_sparsity_pct": 40})["profile"]
    second = trained(store, TICKET)["profile"]
    assert first["multiply_adds"] + second["multiply_adds"] == 3 * 1150 * 4 * 50_200
    assert second["floor_seconds"] == second["multiply_adds"] / second["peak_multiply_adds"]
    assert 0 < second["floor_seconds"] < second["seconds"]["training"]
    from_iteration = trained(Store(tmp_path / "other"), {**TICKET, "rewind_epoch": "7it", "epochs": 3})["profile"]
    assert from_iteration["multiply_adds"] == 3 * 50_200 * (3 * 1150 + 2 * 8 * 230)


@pytest.mark.parametrize("fields", [TICKET, FIT], ids=["levels", "fit"])
def test_a_profiled_trial_has_the_bytes_of_one_that_is_not(fields: dict[str, Any], tmp_path: Path) -> None:
    plain, profiled = (trained(Store(tmp_path / str(on)), fields, on) for on in (False, True))
    assert "profile" not in plain
    assert plain["sha256"] == profiled["sha256"] and plain["states"] == profiled["states"]
    times = {"profile", "train_seconds", "epochs"}
    assert {k: v for k, v in plain.items() if k not in times} == {k: v for k, v in profiled.items() if k not in times}
    assert fingerprint(Execution(profile=True)) == fingerprint(Execution())


@pytest.mark.parametrize("fields", [TICKET, FIT], ids=["levels", "fit"])
def test_the_work_of_the_device_is_traced_in_one_epoch(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, with the operations of the CPU in the place of kernels. Bytes stay, and one epoch gives none."""
    plain = trained(Store(tmp_path / "plain"), fields, False)
    monkeypatch.setattr(profile, "TRACEABLE", {"cpu": torch.profiler.ProfilerActivity.CPU})
    traced = trained(Store(tmp_path / "traced"), fields)
    assert 0.05 < traced["profile"]["kernel_share"] <= 1
    assert traced["sha256"] == plain["sha256"]
    found = traced["profile"]
    assert sum(found["seconds"].values()) == pytest.approx(found["wall_seconds"], abs=1e-6)
    one = trained(Store(tmp_path / "one"), {"control": "dense", "epochs": 1})
    assert one["profile"]["kernel_share"] is None


class Breaks(nn.Flatten):
    """From the second epoch of five steps on, its outputs in training are no numbers."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        return super().forward(x) * (math.nan if self.training and self.calls > 5 else 1.0)


def test_a_traced_epoch_may_end_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "TRACEABLE", {"cpu": torch.profiler.ProfilerActivity.CPU})
    monkeypatch.setattr("tests.plugins.tiny_cnn", lambda shape, n: nn.Sequential(Breaks(), nn.Linear(64, n)))
    record = trained(Store(tmp_path), {**FIT, "model": "tests.plugins:tiny_cnn", "control": "dense", "epochs": 4})
    assert (record["status"], record["epochs_trained"]) == ("diverged", 2)
    assert sum(record["profile"]["seconds"].values()) == pytest.approx(record["profile"]["wall_seconds"], abs=1e-6)
    again = trained(Store(tmp_path / "again"), TICKET)  # the tracer of the broken fit has ended
    assert again["profile"]["kernel_share"] is not None


def test_a_trial_that_diverges_is_profiled_too(tmp_path: Path) -> None:
    record = trained(Store(tmp_path), {"control": "dense", "optimizer": "sgd", "lr": 1e30, "epochs": 3})
    assert record["status"] == "diverged"
    found = record["profile"]
    assert sum(found["seconds"].values()) == pytest.approx(found["wall_seconds"], abs=1e-6)


def test_a_record_with_a_wrong_profile_is_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = trained(store, {**FIT, "control": "dense"})
    path = store.trial("alone", record["trial"])
    folder = store.find(path)
    assert folder is not None and read_record(store, folder)["profile"] == record["profile"]
    for wrong in ({"wall_seconds": "long", "seconds": {}}, {"wall_seconds": 1.0, "seconds": {"training": -1.0}}, []):
        store.seal(path, {"record.json": to_json({**record, "profile": wrong})}, {"kind": "trial"})
        found = store.find(path)
        assert found is not None
        with pytest.raises(Damaged, match="profile"):
            read_record(store, found)


def test_columns_are_those_of_the_record_and_null_without_a_profile(tmp_path: Path) -> None:
    found = profile_values(trained(Store(tmp_path), {**FIT, "control": "dense"})["profile"])
    assert set(found) == {field.name for field in profile_columns()}
    assert {name for name, value in found.items() if value is None} <= {"profile_kernel_share", "profile_idle_seconds"}
    assert profile_values(None) == {}


def test_the_report_adds_up_the_trials_that_were_profiled() -> None:
    names = [field.name for field in profile_columns()]
    row = dict.fromkeys(names, 0.0)
    row |= {
        "profile_wall_seconds": 10.0, "profile_training_seconds": 8.0, "profile_import_seconds": 2.0,
        "profile_idle_seconds": 1.5, "profile_floor_seconds": 0.4, "profile_peak_multiply_adds": 1e12,
        "profile_kernel_share": 0.5,
    }  # fmt: skip
    view = profile_view([row, {**row, "profile_kernel_share": None}, dict.fromkeys(names)])
    assert view is not None
    assert [(part.name, part.seconds, part.share) for part in view.parts] == [("training", 16, 80), ("import", 4, 20)]
    said = " ".join(view.sentences)
    assert "2 profiled trials took 20.0 s" in said and "for 3.0 s" in said
    assert "50 % of the time (mean of 1)" in said and "at least 0.80 s" in said and ": 5 % of" in said
    assert profile_view([dict.fromkeys(names)]) is None and profile_view([]) is None


def test_kernels_that_overlap_count_once() -> None:
    assert covered([]) == 0
    assert covered([(5, 9), (0, 2), (1, 3), (6, 7), (9, 10)]) == 3 + 5
    spans = np.sort(np.random.default_rng(0).random((200, 2)), axis=1)
    grid = (np.arange(100_000) + 0.5) / 100_000
    inside = np.any([(start <= grid) & (grid < end) for start, end in spans], axis=0).mean()
    assert covered(map(tuple, spans.tolist())) == pytest.approx(inside, abs=1e-3)


def test_the_peak_is_measured_once_and_moves_no_random_stream() -> None:
    before = torch.get_rng_state()
    peak = peak_of("cpu", "fp32", torch.get_num_threads())
    assert torch.equal(before, torch.get_rng_state())
    assert 1e8 < peak < 1e14 and peak_of("cpu", "fp32", torch.get_num_threads()) == peak
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    assert multiply_adds(model, torch.zeros(2, 1, 2, 2)) == 12
