"""A member of a cohort has the bytes that it has among any others, in any slot, or alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.training.execution import Execution
from tests.support.cohorts import results, trained_together
from tests.support.grids import GRIDS

K = 4
FAST = ("validated often",)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("grid", [pytest.param(g, marks=() if g in FAST else pytest.mark.slow) for g in GRIDS])
def test_a_member_has_the_bytes_that_it_has_alone(grid: str, device: str, tmp_path: Path) -> None:
    execution = Execution(device=device, deterministic=True, replicas=K)
    specs = list(dict.fromkeys(TrialSpec(**fields) for fields in GRIDS[grid]))
    alike = [spec for spec in specs if spec.optimizer == specs[0].optimizer and spec.width_pct == specs[0].width_pct]
    members = alike[-K if grid in FAST else -2 * K :]
    together = trained_together(members[::-1], tmp_path / "together", execution)[::-1]
    for spec, record in zip(members, together, strict=True):
        (alone,) = trained_together([spec], tmp_path / "alone", execution)
        assert results(alone) == results(record), spec.name
