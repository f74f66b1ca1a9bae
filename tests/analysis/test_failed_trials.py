"""A run in which much has failed: there is a report all the same, and it says what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import analysis
from analysis.__main__ import main
from lth_trainable.spec.trial_spec import TrialSpec
from tests.support.records import DIGITS, digits_like, make_run

REASON = "no step for 300 s at level 1, epoch 3 (twice)"


@pytest.mark.parametrize(
    ("what", "missing"),
    [
        (lambda spec: spec.control == "dense", "dense failed"),
        (lambda spec: spec.control != "dense", "ticket failed"),
        (lambda spec: (spec.seed % 2 == 0) == (spec.control == "dense"), "failed"),
        (lambda spec: True, "ticket failed"),
    ],
    ids=["all dense networks", "all tickets", "half of each pair", "everything"],
)
def test_whatever_has_failed_there_is_a_report(
    what: Callable[[TrialSpec], bool], missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    specs = digits_like()
    failed = [spec.name for spec in specs if what(spec)]
    run = make_run(tmp_path, specs, DIGITS, skip=failed)
    for name in failed:
        (run / "trials" / name).mkdir(parents=True)
        (run / "trials" / name / "failure.json").write_text(json.dumps({"reason": REASON, "traceback": ""}))
    assert main([str(run)]) == 0
    shown, frames = capsys.readouterr(), analysis.load(run)
    assert f"{len(failed)} failed" in shown.out and "Traceback" not in shown.out + shown.err
    assert set(frames.trials[frames.trials.status == "failed"].trial) == set(failed)
    matches = frames.verdicts[frames.verdicts.claim == "matches"]
    assert set(matches.verdict) == {"undecided"} and matches.unpaired.str.contains(missing).all()
    assert REASON in (run / "report.html").read_text()
