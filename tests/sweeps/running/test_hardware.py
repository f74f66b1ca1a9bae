"""Plans for machines that are not here: how many trials they run at once, and what is measured, said or assumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.run import run_trial
from sweeps.lth_grid import main
from sweeps.running import estimate
from sweeps.running.hardware import hardware_of, of_launcher_file
from sweeps.running.resources import Resources
from tests.support.command import ROOT

SMALL = [
    "digits", "--controls", "none", "--epochs", "2", "--sparsity", "40", "--rewind-epoch", "0", "--seeds", "20",
    "--json",
]  # fmt: skip
WARM_UP = estimate.WARM_UP_SECONDS


@pytest.fixture
def planned(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plans a small sweep in an empty storage: the figures, and what was printed. No trial may be trained for it."""
    monkeypatch.setattr(estimate, "_probe", lambda *_: pytest.fail("a trial would train"))

    def plan(*arguments: str) -> tuple[dict[str, Any], str]:
        assert main([*SMALL, "--storage", str(tmp_path), *arguments]) == 0
        out = capsys.readouterr().out
        return json.loads(out.strip().splitlines()[-1]), out

    return plan


@pytest.mark.parametrize(
    ("text", "gpus", "slots"),
    [("8 x H100", 0.25, 32), ("8xH100", 1, 8), ("2 × NVIDIA A100", 0.5, 4), ("64 x CPU", 0, 64), ("64 cores", 0, 64)],
)
def test_the_number_of_trials_at_once_follows_from_the_hardware(text: str, gpus: float, slots: int) -> None:
    assert hardware_of(text).slots(Resources(gpus=gpus)) == slots
    assert hardware_of(text).slots(Resources(gpus=gpus, max_concurrent=3)) == 3


def test_a_launcher_file_says_what_its_cluster_has() -> None:
    cluster = of_launcher_file(ROOT / "cluster.yaml")  # a head without CPUs, and four workers with a GPU and four CPUs
    assert cluster.slots(Resources(gpus=0.5)) == 8 and cluster.slots(Resources(cpus=2)) == 8


def test_a_launcher_file_that_names_no_sizes_leaves_them_unknown(tmp_path: Path) -> None:
    for content in ("provider: {type: local}", "available_node_types: {worker: {max_workers: 3}}"):
        (tmp_path / "lab.yaml").write_text(content)
        assert of_launcher_file(tmp_path / "lab.yaml").slots(Resources()) is None


@pytest.mark.parametrize(
    ("text", "gpus", "message"),
    [
        ("fast", 1, "on: found 'fast'; expected a number and a device, such as '8 x H100'"),
        ("0 x H100", 1, "on: found '0 x H100'"),
        ("none.yaml", 1, "it cannot be read"),
        ("8 x H100", 0, "gpus-per-trial: found 0; expected a part of a GPU"),
        ("8 x CPU", 1, "on: 8 x CPU has no room for a trial"),
    ],
)
def test_hardware_that_cannot_be_planned_for_is_refused(text: str, gpus: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        hardware_of(text).slots(Resources(gpus=gpus))


def test_the_time_rests_on_what_the_user_says(planned: Any) -> None:
    figures, out = planned("--on", "8 x H100", "--gpus-per-trial", "0.25", "--seconds-per-epoch", "10")
    assert figures["slots"] == 32 and figures["planned_for"] == "8 x H100" and figures["epochs_to_train"] == 80
    assert figures["estimated_s"] == WARM_UP + 4 * 10  # no trial ends before its own four epochs
    assert "10000 ms an epoch: as --seconds-per-epoch says, not measured" in out
    assert "assumed: there are CPU cores enough for the trials; trials that share a GPU (4 each) are as fast" in out
    assert planned("--dry-run", "--seconds-per-epoch", "10")[0]["planned_for"] is None


def test_without_a_measurement_on_such_a_device_the_time_is_unknown(planned: Any) -> None:
    figures, out = planned("--on", "8 x H100", "--gpus-per-trial", "1")
    assert figures["estimated_s"] is None and "not measured on these devices" in out


def test_finished_trials_on_such_a_device_give_the_pace(
    planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_trial(TrialSpec(control="dense", epochs=2, seed=99), Store(tmp_path), "elsewhere")
    real = estimate.read_record

    def on_a_gpu(*arguments: Any) -> dict[str, Any]:
        record = real(*arguments)
        epochs = [{**row, "seconds": 3.0} for row in record["epochs"]]
        return {**record, "epochs": epochs, "fingerprint": {"device": "cuda: NVIDIA H100 80GB HBM3", "threads": 1}}

    monkeypatch.setattr(estimate, "read_record", on_a_gpu)
    figures, out = planned("--on", "8 x h100", "--gpus-per-trial", "1")
    assert figures["estimated_s"] == WARM_UP + 80 / 8 * 3
    assert "3000 ms an epoch: measured in other runs of the storage, on cuda: NVIDIA H100 80GB HBM3" in out
    assert planned("--on", "8 x A100", "--gpus-per-trial", "1")[0]["estimated_s"] is None


@pytest.mark.parametrize("where", [["--address", "auto"], ["--address", "http://head:8265"]])
def test_a_dry_run_for_a_running_cluster_does_not_guess_what_it_has(where: list[str], planned: Any) -> None:
    figures, out = planned("--dry-run", "--gpus-per-trial", "0.5", *where)
    assert figures["estimated_s"] is None and figures["slots"] is None and "say it, as in --on '8 x H100'" in out


def test_a_dry_run_for_a_launcher_file_plans_for_its_cluster(planned: Any) -> None:
    where = ["--cluster", str(ROOT / "cluster.yaml"), "--gpus-per-trial", "0.5"]
    figures, out = planned("--dry-run", "--seconds-per-epoch", "1", *where)
    assert figures["slots"] == 8 and figures["estimated_s"] == WARM_UP + 10 and "all of its workers are there" in out


def test_a_dry_run_says_what_it_does_while_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def probe(*_: Any) -> tuple[estimate.Measured, str]:
        shown.append(capsys.readouterr().out)  # what was on the screen by then
        return estimate.Measured(per_epoch=1.0, bytes_per_state=1, source="measured just now"), ""

    monkeypatch.setattr(estimate, "_probe", probe)
    assert main([*SMALL, "--storage", str(tmp_path), "--dry-run"]) == 0
    assert (
        shown[0]
        .rstrip()
        .endswith("measuring: one trial trains for a second, in a process that needs some seconds to start")
    )


@pytest.mark.parametrize("arguments", [["--seconds-per-epoch", "3"], ["--dry-run", "--seconds-per-epoch", "0"]])
def test_a_pace_without_a_plan_or_of_zero_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--storage", str(tmp_path), *arguments]) == 2
    assert "seconds-per-epoch: found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gpus", "asked", "said"), [(1, 0, "has a GPU;"), (8, 0, "has 8 GPUs;"), (8, 0.25, None), (0, 0, None)]
)
def test_gpus_that_trials_leave_unused_are_said(
    monkeypatch: pytest.MonkeyPatch, gpus: int, asked: float, said: str | None
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    note = Resources(gpus=asked).unused()
    assert note is None if said is None else note is not None and said in note


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no device files of GPUs")
def test_torch_counts_the_gpus_only_where_there_is_a_device_file_of_one(tmp_path: Path) -> None:
    """Importing it takes seconds, in which the workers could start."""
    (tmp_path / "torch.py").write_text("class cuda:\n    device_count = staticmethod(lambda: 3)\n")
    code = (
        "import sys; from lth_trainable import nvidia; from sweeps.running import resources; "
        f"nvidia.DEVICE_FILES = ('{tmp_path}/nvidia*',); print(resources.gpu_count(), 'torch' in sys.modules)"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    for made, expected in (False, "0 False"), (True, "3 True"):
        if made:
            (tmp_path / "nvidiactl").touch()
        found = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        assert found == expected
