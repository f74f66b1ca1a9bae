"""Records, tables and reports say what share of all weights is prunable and pruned, and why the others are not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from torch import Tensor, nn

import analysis
from analysis.gather import gather
from analysis.report.terminal import show
from analysis.report.weights import weights_said
from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.record import OTHER_LAYERS
from lth_trainable.store.store import Store, to_json
from lth_trainable.training.run import run_trial
from tests.support.command import ROOT
from tests.support.records import plan

N_GRU, N_CONVS, N_HEAD = 3 * (48 * 12 + 12 * 12), 6 + 6 * 9, 12 * 10
N_SMALL = 6 + 6 + 2 * 3 * 12 + 10  # 94
N_ALL = N_GRU + N_CONVS + N_HEAD + N_SMALL


class Recurrent(nn.Module):
    """A pointwise and a depthwise convolution, and a recurrent layer over the rows, which holds most weights."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(nn.Conv2d(1, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6))
        self.rows, self.head = nn.GRU(48, 12, batch_first=True), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolutions(x).transpose(1, 2).flatten(2)
        return self.head(self.rows(x)[0][:, -1])


def recurrent(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    return Recurrent()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ticket = TrialSpec(
        model="tests.analysis.test_all_weights:recurrent", schedule="omp", epochs=1, target_sparsity_pct=90.0,
        context="global", rewind_epoch=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("storage")
    storage = Store(folder)
    run_trial(ticket, storage, "run")
    trials = [{"name": ticket.name, "key": ticket.key(load_dataset("digits").digest), "spec": ticket.canonical()}]
    storage.write("run/plan.json", to_json(plan([ticket], trials=trials)))
    return folder / "run"


def test_the_record_counts_all_weights(run: Path) -> None:
    record = json.loads(next(run.glob("**/record.json")).read_text())
    assert record["all_weights"] == {
        "n": N_ALL, "not_pruned": {"recurrent weights": N_GRU, "biases and norms": N_SMALL, OTHER_LAYERS: N_HEAD},
    }  # fmt: skip
    assert record["result"]["n_weights"] == N_CONVS == 60


def test_tables_and_reports_say_what_share_it_is(run: Path) -> None:
    gather(run)
    frames = analysis.load(run)
    (row,) = frames.rows("trials")
    assert row["n_all_weights"] == N_ALL and row["prunable_pct"] == pytest.approx(100 * N_CONVS / N_ALL)
    assert row["pruned_of_all_pct"] == pytest.approx(100 * 54 / N_ALL)
    assert row["not_pruned"] == f"recurrent weights: {N_GRU:,}; {OTHER_LAYERS}: 120; biases and norms: 94"
    (said,) = weights_said(frames)
    assert said.is_little and f"60 of {N_ALL:,} weights (2.5 %) are prunable; at most 54 of {N_ALL:,}" in said.text
    assert "That is less than half of the network" in said.text and f"recurrent weights: {N_GRU:,}" in said.text
    assert row["n_dead_filters"] and f"Up to {row['n_dead_filters']} depthwise filters have no weight left" in said.text
    out = Console(file=io.StringIO(), width=4000)
    show(out, frames, "run")
    assert said.text in out.file.getvalue()  # type: ignore[attr-defined]
    page = (run / "report.html").read_text()
    assert page.count(f"60 of {N_ALL:,} weights") == 2  # at the top, because it is little, and beside the trials


def test_trials_of_version_0_4_have_no_share() -> None:
    frames = analysis.load(ROOT / "tests" / "data" / "digits_small")
    assert weights_said(frames) == []
