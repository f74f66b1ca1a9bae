"""`--tune-lr` as a whole: rates from seeds of their own, a verdict at these rates, and what a rerun does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import analysis
from sweeps import lth_grid
from sweeps.experiments.tuning import FIRST_SEED

ARGUMENTS = [
    "digits", "--seeds", "5", "--epochs", "1", "--sparsity", "40", "--rewind-epoch", "0", "--lr", "1e-5", "3e-3",
    "--controls", "reinit", "--tune-lr", "dense", "ticket", "reinit", "--tune-seeds", "1", "--max-concurrent", "2",
]  # fmt: skip


@pytest.mark.slow
def test_rates_are_tuned_on_seeds_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*ARGUMENTS, "--storage", str(tmp_path)]
    assert lth_grid.main([*arguments, "--dry-run"]) == 0
    assert "can be planned once these trials" in capsys.readouterr().out
    assert lth_grid.main([*arguments, "--max-epochs", "1"]) == 3, "stopped while tuning"
    assert lth_grid.main(arguments) == 0
    out = capsys.readouterr().out
    assert "learning rates chosen on validation accuracy, of 1e-05 0.003" in out
    plan = json.loads((tmp_path / "digits" / "plan.json").read_text())
    assert {arm: found["lr"] for arm, found in plan["tuning"]["arms"].items()} == dict.fromkeys(
        ("dense", "ticket", "reinit"), 3e-3
    )
    assert {entry["spec"]["seed"] for entry in plan["trials"]} == set(range(5))
    tried = analysis.load(tmp_path / "digits-tune-lr").trials
    assert set(tried.seed) == {FIRST_SEED} and len(tried) == 2 + 2 + 2 and set(tried.status) == {"done"}
    verdicts = analysis.load(tmp_path / "digits").rows("verdicts")
    assert {row["n_pairs"] for row in verdicts if row["claim"] in ("matches", "beats")} == {5}
    assert "learning rates chosen on validation" in (tmp_path / "digits" / "report.html").read_text()
    assert lth_grid.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["epochs_trained"] == 0, "all of it is stored"
    assert lth_grid.main([*arguments, "--dry-run"]) == 0
    assert lth_grid.main([*arguments, "--lr", "1e-5", "1e-4"]) == 2, "a run has one rate for each arm"
