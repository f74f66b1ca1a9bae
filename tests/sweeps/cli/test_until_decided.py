"""`--until-decided`: interim looks are planned beforehand, taken one by one, and never reset."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import analysis
from lth_trainable.store.store import Store
from sweeps import lth_grid
from sweeps.cli import training
from sweeps.running.launch import Outcome
from tests.support.command import ROOT, command
from tests.support.records import record, seal

FLAGS = [
    "digits", "--controls", "none", "--epochs", "2", "--schedule", "omp", "--rewind-epoch", "0", "--sparsity",
    "50", "80",
]  # fmt: skip
SAME = [0.0, -0.1, 0.1, 0.05, -0.05, 0.2, -0.2, 0.1, 0.0, -0.1, 0.1, 0.0]
NEAR = [-2.0, -2.5, -1.5, -2.2, -1.8, -2.1, -1.9, -2.3, -1.7, -2.0, -2.4, -1.6]  # the margin of digits is 2 pp
FAR = [-3.0 + x for x in SAME]

Train = Callable[[Any, Any, Any, Any, Any], Outcome]


def n_seeds(job: Any) -> int:
    return len({trial.spec.seed for trial in job.ledger.plan.trials})


def trainer(differences: dict[float, Sequence[float]], seen: list[Any], **outcome: Any) -> Train:
    """Replaces training: seals records with these differences to dense (pp, by seed); `seen` gets seeds and budget."""

    def train(job: Any, experiment: Any, spent: Any, board: Any, loggers: Any, ahead: Any) -> Outcome:
        ledger = job.ledger
        ledger.write_plan(experiment.sweep, job.command)
        seen.append((n_seeds(job), job.setting.budget.epochs))
        made = 0
        for trial in ledger.plan.trials:
            path = ledger.store.trial(ledger.run, trial.name)
            if ledger.store.find(path) is None and not outcome.get("interrupted"):
                spec = trial.spec
                lag = 0.0 if spec.is_dense else differences[spec.target_sparsity_pct][spec.seed]
                content = record(spec, (95 + 0.1 * spec.seed + lag) / 100, {"key": trial.key})
                seal(Path(ledger.store.root), spec, content, ledger.run)
                made += 1
        return Outcome(**{"epochs": made, "failures": {}, "interrupted": False, **outcome})

    return train


def looks_of(
    storage: Path, differences: dict[float, Sequence[float]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], *flags: str, most: int = 12, **outcome: Any,
) -> tuple[int, list[Any], dict[str, Any], str]:  # fmt: skip
    """Exit code, (seeds, budget) of each look, the JSON of the last line, what was printed."""
    seen: list[Any] = []
    monkeypatch.setattr(training, "train", trainer(differences, seen, **outcome))
    plan = ["--until-decided", "--max-seeds", str(most)]
    code = lth_grid.main([*FLAGS, *plan, "--storage", str(storage), "--json", *flags])
    out = capsys.readouterr().out
    return code, seen, json.loads(out.strip().splitlines()[-1]), out


def test_it_ends_at_the_first_look_that_settles_every_ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, seen, summary, out = looks_of(tmp_path, {50.0: SAME, 80.0: FAR}, monkeypatch, capsys)
    assert code == 0
    assert seen == [(5, None)], "at 5 of 12 seeds the level is 0.0007"
    assert summary["looks"] == {
        "planned": [5, 8, 12], "seeds": 5, "settled": {"digits-lenet_300_100-omp-r0-e2": True},
    }  # fmt: skip
    assert "note: interim looks at 5, 8, 12 seeds; the sweep ends at the first look that settles every ladder" in out
    assert "look 1 of 3, 5 seeds: 1 of 1 ladder settled; decided" in out
    assert out.count("report  ") == 1, "the verdict is printed once"
    assert json.loads((tmp_path / "digits" / "plan.json").read_text())["looks"] == [5, 8, 12]
    assert {row["look"] for row in summary["verdicts"]} == {5}


def test_a_question_at_the_margin_runs_to_the_last_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, seen, summary, out = looks_of(tmp_path, {50.0: SAME, 80.0: NEAR}, monkeypatch, capsys, "--max-epochs", "100")
    assert (code, summary["planned"], summary["done"]) == (0, 36, 36)
    assert seen == [(5, 100), (8, 85), (12, 76)], "the limit is that of the command, not of each look"
    assert summary["epochs_trained"] == 36
    assert "look 3 of 3, 12 seeds: 0 of 1 ladder settled; not decided, and no look is left" in out


def test_a_rerun_goes_on_with_the_look_that_it_had_got_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    differences = {50.0: SAME, 80.0: NEAR}
    code, seen, _, _ = looks_of(tmp_path, differences, monkeypatch, capsys, interrupted=True)
    assert (code, seen) == (130, [(5, None)])
    code, seen, _, _ = looks_of(tmp_path, differences, monkeypatch, capsys, stopped_by="--max-hours")
    assert (code, seen) == (3, [(5, None)]), "this look is done, the sweep is not"
    code, seen, _, _ = looks_of(tmp_path, differences, monkeypatch, capsys)
    assert seen == [(5, None), (8, None), (12, None)]
    code, seen, summary, _ = looks_of(tmp_path, differences, monkeypatch, capsys)
    assert (code, seen, summary["epochs_trained"]) == (0, [(12, None)], 0)


def test_a_limit_between_two_looks_stops_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    differences = {50.0: SAME, 80.0: NEAR}
    code, seen, summary, out = looks_of(tmp_path, differences, monkeypatch, capsys, "--max-epochs", "15")
    assert (code, seen, summary["stopped_by"]) == (3, [(5, 15)], "--max-epochs")
    assert (summary["done"], summary["planned"]) == (15, 24)
    assert "look 1 of 3, 5 seeds: 0 of 1 ladder settled; the next look is at 8 seeds" in out


def test_without_a_finished_pair_no_more_seeds_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def fail(job: Any, experiment: Any, spent: Any, board: Any, loggers: Any, ahead: Any) -> Outcome:
        job.ledger.write_plan(experiment.sweep, job.command)
        seen.append(n_seeds(job))
        for trial in job.ledger.plan.trials:
            store, path = job.ledger.store, job.ledger.store.trial(job.ledger.run, trial.name)
            store.write(f"{path}/failure.json", json.dumps({"reason": "no such node"}).encode())
        return Outcome(epochs=0, failures={t.name: "no such node" for t in job.ledger.plan.trials}, interrupted=False)

    monkeypatch.setattr(training, "train", fail)
    assert lth_grid.main([*FLAGS, "--until-decided", "--max-seeds", "12", "--storage", str(tmp_path)]) == 1
    assert seen == [5]
    assert "look 1 of 3, 5 seeds: no pair is finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--until-decided", "--max-seeds", "20"], "looks: found [5, 8, 12, 20]; expected [5, 8, 12], as it was fixed"),
        (["--seeds", "9"], "looks: found []; expected [5, 8, 12], as it was fixed before the first trial"),
        (["--until-decided", "--max-seeds", "12", "--sparsity", "50"], "its looks were planned for other tickets"),
    ],
)
def test_looks_and_tickets_stay_as_they_were_planned(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks_of(tmp_path, {50.0: SAME, 80.0: FAR}, monkeypatch, capsys)
    plan = (tmp_path / "digits" / "plan.json").read_bytes()
    assert lth_grid.main([*FLAGS, "--storage", str(tmp_path), *flags]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "digits" / "plan.json").read_bytes() == plan


def test_a_run_that_was_looked_at_gets_no_looks_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "train", trainer({50.0: SAME, 80.0: FAR}, []))
    assert lth_grid.main([*FLAGS, "--seeds", "5", "--storage", str(tmp_path)]) == 0
    assert lth_grid.main([*FLAGS, "--until-decided", "--max-seeds", "12", "--storage", str(tmp_path)]) == 2
    assert "looks: found [5, 8, 12]; expected [], as it was fixed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--until-decided"], "found no --max-seeds"),
        (["--max-seeds", "9"], "max-seeds: found 9; expected --until-decided with it"),
        (["--until-decided", "--max-seeds", "4"], "max-seeds: found 4; expected at least 5"),
        (["--until-decided", "--max-seeds", "9", "--seeds", "3"], "found --seeds or --seed with it"),
        (["--until-decided", "--max-seeds", "9", "--seed", "3"], "found --seeds or --seed with it"),
    ],
)
def test_flags_that_make_no_plan(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lth_grid.main([*FLAGS, *flags, "--storage", str(tmp_path / "runs")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_looks_on_digits_from_first_trial_to_verdict(tmp_path: Path) -> None:
    """Real trials: two looks in one process, each with its own Ray; a rerun trains nothing."""
    flags = ["--epochs", "3", "--sparsity", "40", "92.22", "--rewind-epoch", "0", "--until-decided", "--max-seeds", "7"]
    flags += ["--controls", "none"]
    words = command("digits", *flags, "--storage", str(tmp_path), "--json")
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, timeout=500)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    looks = summary["looks"]
    assert looks["planned"] == [5, 7] and looks["seeds"] in (5, 7)
    assert summary["done"] == summary["planned"] == 3 * looks["seeds"]
    frames = analysis.load(tmp_path / "digits")
    assert set(frames.verdicts.look) == {looks["seeds"]}
    assert looks["seeds"] == 7 or all(looks["settled"].values())
    assert "Traceback" not in done.stdout + done.stderr
    again = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, timeout=200)
    repeated = json.loads(again.stdout.strip().splitlines()[-1])
    assert (again.returncode, repeated["epochs_trained"], repeated["looks"]) == (0, 0, looks)
    assert repeated["verdicts"] == summary["verdicts"]
    assert Store(tmp_path).exists("digits/report.html")
