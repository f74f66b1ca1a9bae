"""What the command refuses before it starts Ray, and what it shows without training."""

from __future__ import annotations

import errno
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from sweeps.lth_grid import main
from tests.support.command import ROOT, command

BAD: list[tuple[list[str], str]] = [
    (["--sparsity", "0.5"], "did you mean 50?"),
    (["--sparsity", "-1"], "found -1"),
    (["--sparsity", "100"], "no weight would be left"),
    (["--sparsity", "120"], "found 120"),
    (["--schedule", "ipm"], "did you mean imp?"),
    (["--criteria", "large"], "large_final"),
    (["--dataset", "mnits"], "did you mean mnist?"),
    (["--model", "lenet"], "lenet_300_100"),
    (["digit"], "did you mean digits?"),
    (["--rewind-epoch", "25"], "up to the first prune"),
    (["--schedule", "iterative", "--start-pct", "1.5"], "[0, 1)"),
    (["--seeds", "0"], "at least 1"),
    (["--seed", "1", "1"], "repeated: 1"),
    (["--epochs", "0"], "at least 1"),
    (["--schedule", "iterative", "--prune-steps", "25"], "no room for 25 pruning steps in 20 epochs"),
    (["--gpus-per-trial", "1.5"], "0, a fraction of a GPU"),
    (["--gpus-per-trial", "-1"], "0, a fraction of a GPU"),
    (["--cpus-per-trial", "4096"], "the cores of this machine"),
    (["--max-concurrent", "0"], "at least 1"),
    (["--replicas", "0"], "1 to"),
    (["--storage", "{file}"], "it is a file"),
    (["--storage", "{file}/below"], "cannot write to"),
    (["--name", "a/b"], "without a slash"),
    (["--name", "states"], "not 'states'"),
    (["--max-hours", "0"], "positive number of hours"),
    (["--max-epochs", "0"], "at least 1"),
    (["--rewind-epoch", "1.5"], "500it"),
    (["--log", "tensorbord"], "did you mean tensorboard?"),
    (["--log"], "at least one value"),
    (["--rewind-epoch", "400it"], "less than 400it (20 epochs of 20 iterations)"),
    (["--dry-run", "--plan-figure", "plan.txt"], ".svg"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_exits_with_2_before_ray_starts(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sweeps.cli.job.launch", lambda *_: pytest.fail("Ray would start"))
    file = tmp_path / "file"
    file.touch()
    storage = [] if "--storage" in arguments else ["--storage", str(tmp_path / "runs")]
    assert main([a.replace("{file}", str(file)) for a in arguments] + storage) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists(), "nothing is written for a mistake"


def test_a_full_disk_is_one_line_and_other_errors_of_the_system_are_not_hidden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(number: int) -> None:
        def train(*_: Any, **__: Any) -> None:
            raise OSError(number, "of the system")

        monkeypatch.setattr("sweeps.cli.training.train", train)

    arguments = ["digits", "--epochs", "2", "--sparsity", "40", "--seeds", "1", "--storage", str(tmp_path)]
    raises(errno.EDQUOT)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: this machine: found a quota that is used up") and error.count("\n") == 1
    raises(errno.EBADF)
    with pytest.raises(OSError, match="of the system"):
        main(arguments)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 2, "trials": []}'])
@pytest.mark.parametrize("how", [["--dry-run"], []], ids=["dry run", "run"])
def test_a_damaged_plan_is_named_before_anything_is_trained(
    how: list[str],
    content: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sweeps.cli.job.launch", lambda *_: pytest.fail("Ray would start"))
    monkeypatch.setattr("sweeps.cli.dry_run.estimate", lambda *_: None)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "plan.json").write_text(content)
    assert main(["digits", "--epochs", "2", "--sparsity", "40", "--seeds", "1", "--storage", str(tmp_path), *how]) == 2
    assert capsys.readouterr().err.startswith("error: digits/plan.json")
    assert (tmp_path / "digits" / "plan.json").read_text() == content


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="for machines without a GPU")
def test_more_gpus_than_there_are_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gpus-per-trial", "1", "--storage", str(tmp_path)]) == 2
    assert "no GPU" in capsys.readouterr().err


def test_malformed_flags_exit_with_2() -> None:
    done = subprocess.run(command("--sparsity", "abc"), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2 and "--sparsity" in done.stderr and "Traceback" not in done.stderr


def test_a_name_with_another_identity_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    spec = TrialSpec(control="dense", epochs=2)
    store.seal(f"digits/trials/{spec.name}", {"record.json": b"{}"}, {"kind": "trial", "key": "another"})
    arguments = ["--epochs", "2", "--sparsity", "40", "--rewind-epoch", "0", "--seeds", "1"]
    assert main([*arguments, "--storage", str(tmp_path)]) == 2
    assert "choose another --name" in capsys.readouterr().err


def test_dry_run_shows_trials_epochs_and_time_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--controls", "none", "--seeds", "1", "--dry-run", "--json")
    assert main(["digits", *options, "--storage", str(tmp_path / "runs")]) == 0
    *shown, last = capsys.readouterr().out.strip().splitlines()
    content = json.loads(last)
    figures = [
        content[n] for n in ("trials", "segments", "epochs_requested", "epochs_to_train", "critical_path_epochs")
    ]
    assert figures == [7, 8, 569, 20 + 5 * 20 + 5 * 19, 120]
    assert content["estimated_s"] > 0 and content["disk_bytes"] > 0 and any("92.22" in row for row in shown)
    assert not (tmp_path / "runs").exists()


def test_list_shows_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert "digits_tutorial" in capsys.readouterr().out
