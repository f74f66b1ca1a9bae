"""`--compile` on the command line and in Python: used where trials are long enough, and told where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.cli.confirm import _where
from sweeps.cli.job import Setting
from sweeps.cli.options import Options, parse
from sweeps.from_python import Sweep
from sweeps.lth_grid import main
from sweeps.planning import compiling

NOTE = "note: --compile is not used: the longest trial has 10 updates, and compiling takes about as long as it saves in"
SMALL = [
    "digits",
    "--schedule",
    "omp",
    "--sparsity",
    "50",
    "--epochs",
    "1",
    "--rewind-epoch",
    "0",
    "--controls",
    "none",
]
SMALL += ["--batch-size", "230", "--seeds", "1", "--compile", "--dry-run"]  # five updates an epoch


@pytest.mark.slow
def test_short_trials_are_not_compiled_and_that_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--storage", str(tmp_path)]) == 0
    assert NOTE in capsys.readouterr().out
    arguments = {"epochs": 1, "schedule": "omp", "sparsity": 50, "rewind_epoch": 0, "batch_size": 230, "seeds": 1}
    Sweep("digits", compile=True, controls="none", **arguments).plan(tmp_path)
    assert NOTE in capsys.readouterr().out


def test_long_trials_are_compiled_and_a_machine_that_cannot_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "PAYS_FROM", 10)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main([*SMALL, "--storage", str(tmp_path)]) == 2
    assert "compile: found no C++ compiler (no-such-compiler)" in capsys.readouterr().err
    monkeypatch.setenv("CXX", "true")
    assert main([*SMALL, "--storage", str(tmp_path)]) == 0
    assert "--compile is not used" not in capsys.readouterr().out


def test_the_steps_of_a_cohort_count_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten updates of each member a cohort of four makes ten steps: each saves more, and compiling takes longer."""
    monkeypatch.setenv("CXX", "true")
    for pays_from, is_used in ((11, False), (10, True)):
        monkeypatch.setattr(compiling, "PAYS_FROM", pays_from)
        assert main([*SMALL, "--seeds", "4", "--replicas", "4", "--storage", str(tmp_path)]) == 0
        assert ("--compile is not used" in capsys.readouterr().out) is not is_used


def test_workers_are_told_to_compile_only_if_it_is_used() -> None:
    options = parse(["digits", "--compile"])[0]
    setting = Setting.of(options)
    assert setting.resources.execution()["compile"] is True
    assert "compile" not in setting.compiling(False).resources.execution()
    assert "compile" not in parse(["digits"])[0].resources.execution()
    assert "--compile" in _where(options) and "--compile" not in _where(Options())
    together = Setting.of(parse(["digits", "--compile", "--replicas", "4"])[0]).resources.execution()
    assert (together["compile"], together["replicas"]) == (True, 4)
