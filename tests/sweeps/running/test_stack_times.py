"""The process that measures stacks: what it answers, and what becomes of one that does not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.running import stack_times
from sweeps.running.stack_times import NotMeasured, lines_of, read_lines, request_of

EXECUTION = {"device": "cpu", "threads": 1}
A_TIME = json.dumps({"k": 1, "step_s": 0.5, "validation_s": 0.25})


def measured(numbers: list[int], **fields: object) -> stack_times.Found:
    spec = TrialSpec(control="dense", **fields)  # type: ignore[arg-type]
    return read_lines(lines_of(request_of(spec, EXECUTION, None, numbers)))


def test_a_tiny_curve_on_the_cpu() -> None:
    found = measured([1, 2], batch_size=230)
    assert [time.k for time in found.times] == [1, 2] and found.is_whole
    assert found.place["device"].startswith("cpu: ") and found.place["threads"] == 1 and "driver" in found.place
    assert all(0 < time.step_s < 60 and 0 < time.validation_s < 60 for time in found.times)


def test_networks_that_cannot_be_stacked_are_refused_with_the_reason() -> None:
    with pytest.raises(NotMeasured, match=r"such networks are not trained as one: .*constant"):
        measured([1, 2], model="tests.support.drawn_constants:with_tensor", batch_size=230)


def test_what_cannot_be_trained_is_told() -> None:
    with pytest.raises(NotMeasured, match=r"they could not be measured \(.*no-such"):
        lines = lines_of({**request_of(TrialSpec(), EXECUTION, None, [1]), "execution": {"device": "no-such"}})
        read_lines(lines)


def test_a_process_that_dies_or_is_late_has_measured_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of(TrialSpec(), EXECUTION, None, [1])
    with pytest.raises(NotMeasured, match="the process that measures took too long"):
        read_lines(lines_of(request, seconds=0.01))
    program = tmp_path / "dies"
    program.write_text(f"#!/bin/sh\necho '{A_TIME}'\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    found = read_lines(lines_of(request))
    assert [time.k for time in found.times] == [1] and not found.is_whole
    assert found.ended == "the process that measures ended with code -9"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "ended with code 1"), (["a warning", "[1]"], "ended with code 1"),
        ([A_TIME, '{"refused": "it draws"}'], "not trained as one: it draws"),
        (['{"error": "no GPU"}'], r"could not be measured \(no GPU\)"),
    ],
)  # fmt: skip
def test_answers_without_a_time_say_why(lines: list[str], why: str) -> None:
    with pytest.raises(NotMeasured, match=why):
        read_lines([*lines, "1"])


def test_why_no_more_were_measured_is_kept() -> None:
    found = read_lines([A_TIME, '{"ended": "no room for 2"}', "0"])
    assert found.ended == "no room for 2" and found.is_whole
