"""Trials that a person takes out of the verdict: with a reason, shown, and back again; records stay as they are."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

import analysis
from analysis.__main__ import main
from analysis.tables.exclusions import EXCLUSIONS, change_exclusions, read_exclusions
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.json_files import seal_json
from lth_trainable.store.store import Store
from tests.support.records import dense, drops, ladder, make_run, record, seal

ACCURACY = drops({None: 0.96, 64: 0.955})
DENSE, TICKETS = dense(6), ladder(64, seeds=6)
TICKET, BASELINE = TICKETS[2].name, DENSE[4].name


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY)


def test_excluding_and_taking_back_on_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = {path: path.read_bytes() for path in [*(run / "trials").rglob("*.json"), run / "plan.json"]}
    assert main([str(run), "--exclude", TICKET, BASELINE, "--reason", " a broken  disk "]) == 0
    told = capsys.readouterr().out
    assert "12 trials: 10 done, 2 excluded" in told
    for name in (TICKET, BASELINE):
        assert f"excluded: {name}: a broken disk" in told
    frames = analysis.load(run)
    rows = {row["trial"]: row for row in analysis.as_rows(frames.trials)}
    for name in (TICKET, BASELINE):
        assert (rows[name]["status"], rows[name]["reason"]) == ("excluded", "a broken disk")
        assert rows[name]["test_accuracy"] is not None, "what was measured stays to be seen"
        assert name in set(frames.epochs.trial)
    verdict = analysis.as_rows(frames.verdicts)[0]
    assert (verdict["n_pairs"], verdict["n_unpaired"]) == (4, 2)
    assert "ticket excluded (seed" in verdict["unpaired"] and "dense excluded (seed" in verdict["unpaired"]
    report = (run / "report.html").read_text()
    assert "status-excluded" in report and "a broken disk" in report
    assert main([str(run), "--include", TICKET, BASELINE]) == 0
    assert "12 trials: 12 done" in capsys.readouterr().out
    verdict = analysis.as_rows(analysis.load(run).verdicts)[0]
    assert (verdict["n_pairs"], verdict["n_unpaired"]) == (6, 0)
    assert {path: path.read_bytes() for path in records} == records


def test_the_file_says_which_why_and_when(run: Path) -> None:
    change_exclusions(run, exclude=[TICKET], reason="first")
    change_exclusions(run, exclude=[TICKET, BASELINE], reason="second")
    content = json.loads((run / EXCLUSIONS).read_text())
    assert content["format"] == "2"
    assert {name: entry["reason"] for name, entry in content["excluded"].items()} == dict.fromkeys(
        (TICKET, BASELINE), "second"
    )
    for entry in content["excluded"].values():
        assert set(entry) == {"reason", "when"}
        assert datetime.fromisoformat(entry["when"]).tzinfo is not None
    change_exclusions(run, exclude=[DENSE[0].name], reason="third", include=[TICKET])
    assert set(read_exclusions(Store(run.parent), "run")) == {BASELINE, DENSE[0].name}


def test_a_trial_without_a_record_may_be_excluded_too(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY, skip=[TICKET])
    stray = TrialSpec(target_sparsity_pct=64, seed=9)
    seal(tmp_path, stray, record(stray, 0.9))
    change_exclusions(run, exclude=[TICKET, stray.name], reason="will not be trained")
    rows = {row["trial"]: row for row in analysis.as_rows(analysis.gather(run).trials)}
    assert {rows[name]["status"] for name in (TICKET, stray.name)} == {"excluded"}
    assert rows[TICKET]["test_accuracy"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--exclude", TICKET], "error: --reason: found None; expected a text beside --exclude; say why"),
        (["--exclude", TICKET, "--reason", " "], "say why they are excluded"),
        (["--reason", "because"], "name the trials with --exclude"),
        (["--exclude", TICKET[:-1] + "9", "--reason", "x"], f"expected a trial of the run; near it: {TICKETS[5].name}"),
        (
            ["--exclude", "zebra", "--reason", "x"],
            "--exclude: found 'zebra'; expected a trial of the run; such as: digits",
        ),
        (["--include", TICKET], "expected an excluded trial; there is none"),
        (["--include", TICKET, "--exclude", TICKET, "--reason", "x"], "a trial that --exclude does not name"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (run / EXCLUSIONS).exists() and not (run / "analysis").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "1"}', '{"format": "1", "excluded": {"a": {}}}'])
def test_a_file_that_cannot_be_read_is_not_ignored(run: Path, content: str) -> None:
    (run / EXCLUSIONS).write_text(content)
    with pytest.raises(UserError, match=r"run/exclusions\.json: not readable as exclusions"):
        analysis.gather(run)


def test_exclusions_of_a_newer_version_or_of_no_trial_are_refused(run: Path) -> None:
    (run / EXCLUSIONS).write_bytes(seal_json({"format": "3", "excluded": {}}))
    with pytest.raises(UserError, match="format: found '3'"):
        analysis.gather(run)
    (run / EXCLUSIONS).write_text('{"format": "1", "excluded": {"zebra": {"reason": "x", "when": "y"}}}')
    with pytest.raises(UserError, match=r"run/exclusions\.json: found 'zebra'; expected a trial of the run"):
        analysis.gather(run)
    change_exclusions(run, include=["zebra"])
    assert set(analysis.gather(run).trials.status) == {"done"}
