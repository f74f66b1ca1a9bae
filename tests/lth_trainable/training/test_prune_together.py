"""Members of a cohort that prune at the same time find their masks in one pass, with the bytes of one after another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lth_trainable.pruning.masks_together import Ranking, masks_together
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.training import cohort, trial
from lth_trainable.training.execution import Execution
from tests.support.cohorts import results, trained_together
from tests.support.grids import ADAM, CNN

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))
DEVICES = ["cpu", CUDA]
LADDER: dict[str, Any] = {**CNN, "epochs": 1, "prune_rate_pct": 20.0}
WITHIN: dict[str, Any] = {**ADAM, "epochs": 4, "schedule": "iterative", "rewind_epoch": 1}
RESTARTS: dict[str, Any] = {"epochs": 2, "rewind_epoch": 1, "rewind_optimizer": "fresh"}
MEMBERS: dict[str, list[dict[str, Any]]] = {
    "levels to different sparsities": [
        {**LADDER, "target_sparsity_pct": 20.0}, {**LADDER, "target_sparsity_pct": 48.8, "seed": 1},
        {**LADDER, "target_sparsity_pct": 36.0, "seed": 2},
    ],
    "rates and criteria": [
        {**LADDER, "target_sparsity_pct": 75.0, "prune_rate_pct": 50.0, "criterion": "updating_movement"},
        {**LADDER, "target_sparsity_pct": 36.0, "context": "global", "criterion": "magnitude_increase"},
        {**LADDER, "target_sparsity_pct": 36.0, "layers": "all", "criterion": "random"},
        {**LADDER, "target_sparsity_pct": 36.0, "context": "local", "criterion": "wanda"},
    ],
    "within a fit": [{**WITHIN, "target_sparsity_pct": 30.0 + 20 * seed, "seed": seed} for seed in range(3)],
    "controls": [
        {**LADDER, **RESTARTS, "target_sparsity_pct": 36.0, "control": c}
        for c in ("random_mask", "reinit", "dense_restarts")
    ],
}  # fmt: skip


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many members were ranked at once, each time."""
    found = list[int]()

    def watched(rankings: Sequence[Ranking]) -> Any:
        found.append(len(rankings))
        return masks_together(rankings)

    monkeypatch.setattr(cohort, "masks_together", watched)
    return found


def stored(folder: Path) -> dict[str, dict[str, str]]:
    """Digests of weights, optimisers and masks of each state and record, by its folder; histories have times."""
    found = {}
    for path in folder.rglob("manifest.json"):
        files = json.loads(path.read_text())["files"]
        digests = {name: about["sha256"] for name, about in files.items() if name.endswith(".safetensors")}
        found[str(path.parent.relative_to(folder))] = digests
    assert any("masks.safetensors" in digests for digests in found.values())
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MEMBERS)
def test_one_pass_leaves_the_bytes_of_members_one_after_another(
    name: str, device: str, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [TrialSpec(**fields) for fields in MEMBERS[name]]
    execution = Execution(device=device, deterministic=True, replicas=len(specs) + 1)  # a slot is idle
    monkeypatch.setattr(trial, "RANKS_TOGETHER", ())
    apart = trained_together(specs, tmp_path / "apart", execution)
    assert not passes
    monkeypatch.setattr(trial, "RANKS_TOGETHER", (device,))
    together = trained_together(specs, tmp_path / "together", execution)
    assert passes[0] == len(specs)
    assert list(map(results, together)) == list(map(results, apart))
    assert stored(tmp_path / "together") == stored(tmp_path / "apart")


def test_members_that_prune_at_other_times_are_ranked_when_they_do(
    tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first prunes after one epoch and after two, the second after two and after four."""
    ladder: dict[str, Any] = {**LADDER, "target_sparsity_pct": 36.0}
    specs = [TrialSpec(**ladder), TrialSpec(**{**ladder, "epochs": 2})]
    monkeypatch.setattr(trial, "RANKS_TOGETHER", ("cpu",))
    execution = Execution(replicas=2)
    together = trained_together(specs, tmp_path / "together", execution)
    assert passes == [1, 2, 1]
    for spec, record in zip(specs, together, strict=True):
        (alone,) = trained_together([spec], tmp_path / "alone", execution)
        assert results(alone) == results(record)


def test_a_member_that_diverged_is_pruned_no_more_and_the_others_are(
    tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ladder: dict[str, Any] = {**LADDER, "target_sparsity_pct": 20.0, "optimizer": "sgd"}
    specs = [TrialSpec(**{**ladder, "lr": lr, "seed": seed}) for seed, lr in enumerate((0.05, 1e30, 0.05))]
    monkeypatch.setattr(trial, "RANKS_TOGETHER", ("cpu",))
    records = trained_together(specs, tmp_path, Execution(replicas=3))
    assert [record["status"] for record in records] == ["done", "diverged", "done"] and passes == [2]


def test_on_a_cpu_members_are_pruned_one_after_another(tmp_path: Path, passes: list[int]) -> None:
    specs = [TrialSpec(**{**LADDER, "target_sparsity_pct": 20.0, "seed": seed}) for seed in range(2)]
    trained_together(specs, tmp_path, Execution(replicas=2))
    assert not passes
