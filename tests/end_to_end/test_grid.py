"""The main job as a user runs it: real Ray, real fastai, real processes, real signals."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis.text import duration
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.run import Keep, run_trial
from sweeps.lth_grid import main
from sweeps.running.progress import Board, line

ROOT = Path(__file__).parents[2]
SMALL = ["--epochs", "2", "--sparsity", "40", "64", "--rewind-epoch", "0", "--seeds", "2"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sweeps.lth_grid", *arguments]


def grid(storage: Path, *arguments: str) -> tuple[int, dict[str, Any], str, str]:
    """Exit code, the JSON of the last line, standard output and error."""
    done = subprocess.run(
        command("digits", *arguments, "--storage", str(storage), "--json"),
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=300,
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    return done.returncode, json.loads(last) if last.startswith("{") else {}, done.stdout, done.stderr


def hashes(storage: Path, run: str = "digits") -> dict[str, Any]:
    """Of the sealed trials: what a killed process had begun to write has no manifest."""
    folders = [path.parent for path in (storage / run / "trials").glob("*/manifest.json")]
    return {folder.name: json.loads((folder / "record.json").read_text())["sha256"] for folder in folders}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[int, dict[str, Any], str, str]]:
    storage = tmp_path_factory.mktemp("swept")
    return storage, grid(storage, *SMALL)


def test_a_sweep_ends_with_everything_done(swept: Any) -> None:
    storage, (code, summary, out, err) = swept
    assert code == 0, err
    assert {k: summary[k] for k in ("planned", "done", "failed", "skipped")} == {
        "planned": 6, "done": 6, "failed": 0, "skipped": 0,
    }  # fmt: skip
    assert summary["epochs_requested"] == 2 * (2 + 4 + 6)
    assert summary["epochs_trained"] == summary["epochs_distinct"] == 2 * (2 + 2 + 2), "what is shared is trained once"
    assert summary["run"] == str(storage / "digits") and summary["wall_s"] > 0
    assert [v["verdict"] for v in summary["verdicts"] if v["claim"] == "matches"] == ["undecided", "undecided"]
    frames = analysis.load(storage / "digits")
    assert len(frames.trials) == 6 and len(frames.epochs) == 24
    assert (storage / "digits" / "report.html").exists()
    for noise in ("Traceback", "╭", "WARNING", "Warning", "ray::"):
        assert noise not in out + err, out + err


def test_a_trial_of_the_sweep_is_the_trial_trained_alone(swept: Any, store: Store) -> None:
    storage, _ = swept
    for name, sums in hashes(storage).items():
        spec = json.loads((storage / "digits" / "trials" / name / "record.json").read_text())["spec"]
        assert run_trial(TrialSpec(**spec), store)["sha256"] == sums


def test_ray_checkpoints_carry_the_manifest_and_nothing_else(swept: Any) -> None:
    storage, (_, summary, _, _) = swept
    checkpoints = list((storage / "digits" / "ray").glob("*/*/checkpoint_*"))
    assert len(checkpoints) == 6 - summary["shared"]
    for folder in checkpoints:
        trial = folder.parent.name
        assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} == {"manifest.json"}
        expected = (storage / "digits" / "trials" / trial / "manifest.json").read_bytes()
        assert (folder / "manifest.json").read_bytes() == expected


def test_every_epoch_is_a_row_of_every_trial_with_the_trial_that_trained_it(swept: Any) -> None:
    storage, _ = swept
    frames = analysis.load(storage / "digits")
    assert frames.epochs.groupby("trial").size().sort_index().tolist() == [2, 2, 4, 4, 6, 6]
    trained = frames.epochs.drop_duplicates(["trained_by", "level", "epoch"])
    assert len(trained) == 12 and frames.trials.epochs_trained.sum() == 12


def test_the_same_command_again_skips_what_is_done_and_takes_new_values(swept: Any) -> None:
    storage, _ = swept
    before = hashes(storage)
    started = time.time()
    code, summary, _, _ = grid(storage, *SMALL)
    assert code == 0 and (summary["skipped"], summary["epochs_trained"]) == (6, 0)
    assert not [p for p in (storage / "digits" / "ray").iterdir() if p.stat().st_mtime > started]
    code, summary, _, err = grid(storage, *SMALL[:-1], "3")
    assert code == 0, err
    assert (summary["planned"], summary["skipped"], summary["done"]) == (9, 6, 9)
    assert summary["epochs_trained"] == 2 + 2 + 2
    assert {name: h for name, h in hashes(storage).items() if name in before} == before
    assert len(analysis.load(storage / "digits").trials) == 9


def test_damaged_trials_are_set_aside_and_recorded_again_without_training(swept: Any) -> None:
    storage, _ = swept
    before = hashes(storage)
    trials = storage / "digits" / "trials"
    (trials / "digits-lenet_300_100-dense-e2-seed0" / "masks.safetensors").write_bytes(b"cut")
    (trials / "digits-lenet_300_100-dense-e2-seed1" / "record.json").unlink()
    (trials / "digits-lenet_300_100-imp-s64-r0-e2-seed1" / "manifest.json").unlink()
    altered = trials / "digits-lenet_300_100-imp-s40-r0-e2-seed0" / "record.json"
    altered.write_bytes(altered.read_bytes()[:-2] + b"}}")
    code, summary, out, err = grid(storage, *SMALL)
    assert code == 0, err
    assert (summary["epochs_trained"], summary["shared"]) == (0, 4) and "masks.safetensors has 3 bytes" in out
    assert "record.json does not have the SHA-256 of the manifest" in out
    assert hashes(storage) == before
    assert len(list((storage / "digits" / "quarantine").iterdir())) == 3


def test_damaged_states_are_set_aside_and_trained_again_and_nothing_else_is(swept: Any) -> None:
    storage, _ = swept
    before = hashes(storage)
    record = storage / "digits" / "trials" / "digits-lenet_300_100-imp-s40-r0-e2-seed1" / "record.json"
    (folder,) = (storage / "states" / json.loads(record.read_text())["states"]["final"]).iterdir()
    weights = next(folder.glob("weights-*"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, summary, out, err = grid(storage, *SMALL)
    assert code == 0, err
    assert summary["epochs_trained"] == 2, "of the level whose state was altered; a deeper one is stored"
    assert "weights.safetensors does not have the SHA-256" in out and "set aside in states/quarantine/" in out
    assert hashes(storage) == before


def test_trials_whose_weights_are_gone_are_trained_again(swept: Any) -> None:
    storage, _ = swept
    before = hashes(storage)
    shutil.rmtree(storage / "states")
    code, summary, out, err = grid(storage, *SMALL)
    assert code == 0, err
    assert summary["epochs_trained"] == summary["epochs_distinct"] and "are missing" in out
    assert hashes(storage) == before and (storage / "states").exists()


def test_a_name_with_another_identity_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    spec = TrialSpec(control="dense", epochs=2)
    store.seal(f"digits/trials/{spec.name}", {"record.json": b"{}"}, {"kind": "trial", "key": "another"})
    assert main(["--storage", str(tmp_path), *SMALL]) == 2
    assert "choose another --name" in capsys.readouterr().err


def test_failed_trials_are_named_with_the_reason(tmp_path: Path) -> None:
    code, summary, out, _ = grid(
        tmp_path, "--epochs", "1", "--schedule", "omp", "--sparsity", "50", "--rewind-epoch", "0", "--seeds", "1",
        "--model", "lenet_300_100", "tests.plugins:broken_model",
    )  # fmt: skip
    assert code == 1 and (summary["planned"], summary["done"], summary["failed"]) == (4, 2, 2)
    assert "failed: digits-tests.plugins.broken_model-dense-e1-seed0: RuntimeError: this network cannot be built" in out
    trials = analysis.load(tmp_path / "digits").trials
    assert sorted(trials.status) == ["done", "done", "failed", "failed"]
    assert trials[trials.status == "failed"].test_accuracy.isna().all()


def test_failed_trials_are_left_alone_until_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that fails until the environment says otherwise, as a full disk or a flaky node does."""
    arguments = [
        "--epochs", "1", "--schedule", "omp", "--sparsity", "50", "--rewind-epoch", "0", "--seeds", "1",
        "--model", "tests.plugins:flaky_model",
    ]  # fmt: skip
    monkeypatch.setenv("FLAKY", "fails")
    assert grid(tmp_path, *arguments)[0] == 1
    monkeypatch.setenv("FLAKY", "works")
    code, summary, out, _ = grid(tmp_path, *arguments)
    assert code == 1 and summary["failed"] == 2 and "--retry-failed" in out
    code, summary, _, _ = grid(tmp_path, *arguments, "--retry-failed")
    assert code == 0 and summary["done"] == 2 and not list(tmp_path.glob("digits/trials/*/failure.json"))


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
    (["--gpus-per-trial", "1.5"], "0, a part of a GPU"),
    (["--gpus-per-trial", "-1"], "0, a part of a GPU"),
    (["--cpus-per-trial", "4096"], "the cores of this machine"),
    (["--max-concurrent", "0"], "at least 1"),
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
    monkeypatch.setattr("sweeps.lth_grid.launch", lambda *_: pytest.fail("Ray would start"))
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

        monkeypatch.setattr("sweeps.lth_grid.train", train)

    arguments = ["digits", "--epochs", "2", "--sparsity", "40", "--seeds", "1", "--storage", str(tmp_path)]
    raises(errno.EDQUOT)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: storage: found no space left") and error.count("\n") == 1
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
    monkeypatch.setattr("sweeps.lth_grid.launch", lambda *_: pytest.fail("Ray would start"))
    monkeypatch.setattr("sweeps.lth_grid.estimate", lambda *_: None)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "plan.json").write_text(content)
    assert main(["digits", "--epochs", "2", "--sparsity", "40", "--seeds", "1", "--storage", str(tmp_path), *how]) == 2
    assert capsys.readouterr().err.startswith("error: digits/plan.json: ")
    assert (tmp_path / "digits" / "plan.json").read_text() == content


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="for machines without a GPU")
def test_more_gpus_than_there_are_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gpus-per-trial", "1", "--storage", str(tmp_path)]) == 2
    assert "no GPU" in capsys.readouterr().err


def test_malformed_flags_exit_with_2() -> None:
    done = subprocess.run(command("--sparsity", "abc"), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2 and "--sparsity" in done.stderr and "Traceback" not in done.stderr


def test_dry_run_shows_trials_epochs_and_time_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["digits", "--seeds", "1", "--dry-run", "--json", "--storage", str(tmp_path / "runs")]) == 0
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


@contextlib.contextmanager
def running(storage: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("digits", *arguments, "--storage", str(storage), "--json"), cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_trials(storage: Path, number: int) -> None:
    deadline = time.monotonic() + 240
    while len(list((storage / "digits" / "trials").glob("*/manifest.json"))) < number:
        assert time.monotonic() < deadline, "the sweep makes no progress"
        time.sleep(0.1)


LONG = ["--epochs", "20", "--sparsity", "87.04", "--rewind-epoch", "0", "1", "--seeds", "5"]


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_an_interrupt_keeps_what_is_finished_and_the_same_command_goes_on(tmp_path: Path, how: str) -> None:
    with running(tmp_path, *LONG) as process:
        wait_for_trials(tmp_path, 2)
        if how == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to Ray's processes too
        else:
            process.terminate()
        out, err = process.communicate(timeout=120)
    summary = json.loads(out.strip().splitlines()[-1])
    assert process.returncode == 130 and "Traceback" not in err
    assert 2 <= summary["done"] < summary["planned"] == 15
    kept = hashes(tmp_path)
    code, again, _, err = grid(tmp_path, *LONG)
    assert code == 0, err
    assert (again["skipped"], again["done"]) == (len(kept), 15)
    assert {name: h for name, h in hashes(tmp_path).items() if name in kept} == kept


def test_killing_the_driver_outright_loses_only_the_trials_in_flight(tmp_path: Path) -> None:
    with running(tmp_path, *LONG) as process:
        wait_for_trials(tmp_path, 2)
        process.kill()
        process.communicate()
    kept = hashes(tmp_path)
    code, again, _, err = grid(tmp_path, *LONG)
    assert code == 0, err
    assert again["skipped"] >= len(kept) >= 2 and again["done"] == 15


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path, *LONG) as process:
        wait_for_trials(tmp_path, 1)
        workers = subprocess.run(  # of this sweep alone: other sweeps may be at work on the machine
            ["pgrep", "-s", str(process.pid), "-f", "ray::ImplicitFunc"], capture_output=True, text=True, check=False
        ).stdout.split()
        assert workers, "no worker to kill"
        os.kill(int(workers[0]), signal.SIGKILL)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert json.loads(out.strip().splitlines()[-1])["done"] == 15


@pytest.mark.slow
def test_a_sweep_with_all_controls_and_baselines(tmp_path: Path) -> None:
    arguments = ["--epochs", "2", "--sparsity", "40", "64", "--rewind-epoch", "1", "--seeds", "2",
                 "--controls", "all", "--baselines", "all"]  # fmt: skip
    code, summary, out, err = grid(tmp_path, *arguments)
    assert code == 0 and "Traceback" not in out + err, out + err
    assert summary["planned"] == summary["done"] == 42 and summary["epochs_trained"] == summary["epochs_distinct"]
    entries = json.loads((tmp_path / "digits" / "plan.json").read_text())["trials"]
    roles = {entry["name"]: entry["role"] for entry in entries}
    assert Counter(roles.values()) == {"ticket": 4, "control": 16, "baseline": 16, "dense": 6}
    assert {entry["parent"] for entry in entries if entry["role"] == "control"} == {
        name for name, role in roles.items() if role == "ticket"
    }
    frames = analysis.load(tmp_path / "digits")
    assert set(frames.trials.status) == {"done"} and len(frames.trials) == 42
    assert not frames.verdicts.group.str.contains("reinit|random|shuffle|-w").any()
    alone = Store(tmp_path / "alone")
    for name, sums in hashes(tmp_path).items():
        spec = json.loads((tmp_path / "digits" / "trials" / name / "record.json").read_text())["spec"]
        assert run_trial(TrialSpec(**spec), alone, keep=Keep(states={}, resumable=False))["sha256"] == sums
    code, again, _, _ = grid(tmp_path, *arguments)
    assert code == 0 and (again["skipped"], again["epochs_trained"]) == (42, 0)


def test_the_plain_line_says_how_far_it_is() -> None:
    now = 0.0
    board = Board(planned=10, skipped=3, epochs_planned=700, clock=lambda: now)
    board.spent.report("a", 20)
    assert "3/10 trials, 1 running, 20/700 epochs, measuring the pace" in line(board)
    now = 10.0
    board.spent.finish("b", 100)
    board.spent.fail("c")
    assert "4/10 trials, 1 running, 1 failed, 120/700 epochs, 10 epochs/s, 0:58 left" in line(board)


def test_how_long_a_search_will_take_is_not_known_beforehand() -> None:
    now = 0.0
    board = Board(planned=10, suggestions=(1, 4), clock=lambda: now)
    board.spent.report("a", 20)
    board.look()
    now = 10.0
    board.spent.report("a", 120)
    assert line(board).endswith("1/4 suggestions, 0/10 trials, 1 running, 120 epochs, 10 epochs/s")


def test_durations_are_told_as_clocks_do() -> None:
    assert [duration(s) for s in (7, 750, 11100)] == ["0:07", "12:30", "3:05:00"]
