from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import RECORD, Store
from lth_trainable.training.cohort import run_cohort
from lth_trainable.training.execution import Execution
from lth_trainable.training.run import run_trial
from sweeps.verify import ProgressLine, compare, main, pick


@pytest.fixture
def run(tmp_path: Path) -> str:
    store = Store(tmp_path)
    for seed in (0, 1):
        run_trial(TrialSpec(target_sparsity_pct=64, epochs=2, rewind_epoch=1, seed=seed), store, "r")
        run_trial(TrialSpec(control="dense", epochs=2, seed=seed), store, "r")
    return str(tmp_path / "r")


def test_the_most_shared_of_different_settings_come_first(run: str) -> None:
    """All epochs of the dense trials were trained by the tickets, which trained everything themselves."""
    names = [record["trial"] for record in pick(run, 3)]
    assert names == [
        "digits-lenet_300_100-dense-e2-seed0", "digits-lenet_300_100-imp-s64-r1-e2-seed0",
        "digits-lenet_300_100-dense-e2-seed1",
    ]  # fmt: skip


def test_identical_trials_pass_and_a_changed_hash_does_not(
    run: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([run, "--trials", "2", "--json"]) == 0
    out, said = capfd.readouterr()
    lines = [line for line in said.splitlines() if " of 2: digits" in line]
    assert lines[0].endswith("-dense-e2-seed0: a new process trains 2 epochs, alone")
    assert [line[:6] for line in lines if line.endswith(": identical")] == ["1 of 2", "2 of 2"]
    assert [line.count("identical") for line in out.splitlines()[1:3]] == [3, 3], "nothing is cut"
    assert "digits-lenet_300_100-imp-s64-r1-e2-seed0 " in out
    assert "2 of 2 trials are identical" in out
    assert all(row["identical"] for row in json.loads(out.strip().splitlines()[-1])["trials"])
    store, folder = Store(Path(run).parent), "r/trials/digits-lenet_300_100-dense-e2-seed0"
    sealed = store.find(folder)
    assert sealed is not None
    record = json.loads(store.content(sealed, RECORD))
    record["sha256"]["masks"] = "0" * 64
    files = {name: store.content(sealed, name) for name in sealed.manifest["files"]}
    store.seal(folder, {**files, RECORD: json.dumps(record).encode()}, {"kind": "trial"})
    assert main([run, "--trials", "1"]) == 1
    assert "differs" in capfd.readouterr().out


@pytest.mark.slow
def test_a_trial_of_a_cohort_is_trained_again_beside_strangers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec, execution = TrialSpec(target_sparsity_pct=40, epochs=2, seed=1), Execution(replicas=3)
    others = [TrialSpec(control="dense", epochs=1), TrialSpec(control="dense", epochs=2, lr=0.5)]
    jobs = [functools.partial(run_trial, s, Store(tmp_path), "r", execution) for s in (spec, *others)]
    run_cohort(jobs, execution, spec)
    assert main([str(tmp_path / "r"), "--trials", "3", "--json"]) == 0
    out, said = capfd.readouterr()
    assert said.count(", beside strangers") == 3 and "3 of 3 trials are identical" in out
    assert sum(row["epochs"] for row in json.loads(out.strip().splitlines()[-1])["trials"]) == 4 + 1 + 2


def test_progress_is_a_line_now_and_then_and_in_a_terminal_one_that_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ProgressLine("1 of 3: dense")
    for epoch in (1, 2):
        line.show(f"epoch {epoch} of 2")
    line.end("identical")
    assert capsys.readouterr().err == "1 of 3: dense: epoch 1 of 2\n1 of 3: dense: identical\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    line.show("epoch 2 of 2")
    line.end("differs")
    assert capsys.readouterr().err == "\r\x1b[2Kdense: epoch 2 of 2\r\x1b[2K1 of 3: dense: differs\n"


def test_other_fingerprints_are_not_compared(run: str) -> None:
    record = pick(run, 1)[0]
    other: dict[str, Any] = {"fingerprint": {**record["fingerprint"], "threads": 64}, "sha256": record["sha256"]}
    row = compare(record, other)
    assert not row["identical"] and row["weights"] is None and "threads 64" in row["why"]


def test_bad_input_exits_with_2(tmp_path: Path, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert main([run, "--trials", "0"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
