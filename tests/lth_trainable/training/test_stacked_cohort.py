"""A member of a cohort has the bytes that it has among any others, in any slot, or alone."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.cohort import run_cohort
from lth_trainable.training.execution import Execution
from lth_trainable.training.run import run_trial
from tests.support.grids import GRIDS

K = 4
FAST = ("validated often",)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


def trained(specs: list[TrialSpec], folder: Path, execution: Execution) -> list[dict[str, Any]]:
    """The records of trials in one cohort, each in a store of its own."""
    jobs = [functools.partial(run_trial, s, Store(folder / s.name), "r", execution) for s in specs]
    found = []
    for outcome in run_cohort(jobs, execution, specs[0]):
        assert not isinstance(outcome, BaseException), outcome
        found.append(outcome)
    return found


def results(record: dict[str, Any]) -> dict[str, Any]:
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in record["epochs"]]
    return {"sha256": record["sha256"], "epochs": rows, "result": record["result"]}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("grid", [pytest.param(g, marks=() if g in FAST else pytest.mark.slow) for g in GRIDS])
def test_a_member_has_the_bytes_that_it_has_alone(grid: str, device: str, tmp_path: Path) -> None:
    execution = Execution(device=device, deterministic=True, replicas=K)
    specs = list(dict.fromkeys(TrialSpec(**fields) for fields in GRIDS[grid]))
    alike = [spec for spec in specs if spec.optimizer == specs[0].optimizer and spec.width_pct == specs[0].width_pct]
    members = alike[-K if grid in FAST else -2 * K :]
    together = [
        record for start in range(0, len(members), K)
        for record in trained(members[start : start + K][::-1], tmp_path / "together", execution)[::-1]
    ]  # fmt: skip
    for spec, record in zip(members, together, strict=True):
        (alone,) = trained([spec], tmp_path / "alone", execution)
        assert results(alone) == results(record), spec.name
