"""A trial of a user's own Tuner, without Ray: its reports are caught, and a checkpoint is given to it."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lth_trainable import Store, TrialSpec, UserError, load_trial, run_trial
from lth_trainable.store.checkpoint import CHECKPOINT
from lth_trainable.store.store import MASKS, STATES, WEIGHTS
from lth_trainable.store.trials import finished_trials
from lth_trainable.training.restored import Restored
from lth_trainable.tune.config import Ticket
from lth_trainable.tune.ticket import _check_momentum
from tests.support.tuner import FIELDS, Tuner, tuner_in


@pytest.fixture
def tuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tuner:
    return tuner_in(tmp_path, monkeypatch)


def records(store: Path) -> dict[str, dict[str, Any]]:
    return {record["trial"]: record for _, record in finished_trials(Store(store), "tune")}


def test_each_epoch_is_reported_once_and_the_end_has_the_records_results(tuner: Tuner, tmp_path: Path) -> None:
    reports = tuner.fit(tmp_path / "store")
    record = records(tmp_path / "store")[TrialSpec(**FIELDS).name]
    rows = record["epochs"]
    assert len(reports) == len(rows) == 4
    names = ("valid_accuracy", "valid_loss", "train_loss", "sparsity_pct", "level", "epoch")
    assert [[r[name] for name in names] for r in reports] == [[row[name] for name in names] for row in rows]
    assert [r["levels_done"] for r in reports] == [0, 1, 2, 3]
    assert reports[-1]["status"] == "done"
    assert reports[-1]["test_accuracy"] == record["result"]["test_accuracy"]
    assert [checkpoint is not None for checkpoint in tuner.checkpoints] == [False, True, True, True]


def test_the_bytes_are_those_of_the_trial_alone(tuner: Tuner, tmp_path: Path) -> None:
    tuner.fit(tmp_path / "store")
    alone = run_trial(TrialSpec(**FIELDS), Store(tmp_path / "alone"))
    assert records(tmp_path / "store")[alone["trial"]]["sha256"] == alone["sha256"]
    assert records(tmp_path / "store")[alone["trial"]]["key"] == alone["key"]


def test_epochs_of_another_trial_are_reported_too_so_that_they_count_alike(tuner: Tuner, tmp_path: Path) -> None:
    first = tuner.fit(tmp_path / "store")
    again = tuner.fit(tmp_path / "store", target_sparsity_pct=40.0)
    keep = ("valid_accuracy", "level", "epoch", "levels_done")
    assert [[r[n] for n in keep] for r in again] == [[r[n] for n in keep] for r in first[:3]]
    assert again[-1]["epochs_trained"] == 0 and again[-1]["status"] == "done"


def test_a_checkpoint_holds_weights_and_masks_as_links_to_the_store(tuner: Tuner, tmp_path: Path) -> None:
    tuner.fit(tmp_path / "store")
    level_1, end = Path(tuner.checkpoints[2].path), Path(tuner.checkpoints[3].path)
    files = {CHECKPOINT, WEIGHTS, MASKS, "initial.safetensors", "rewind.safetensors"}
    assert {p.name for p in end.iterdir()} == files
    assert {p.name for p in Path(tuner.checkpoints[1].path).iterdir()} == files - {MASKS}
    stored = {p.stat().st_ino for p in (tmp_path / "store" / STATES).rglob("*.safetensors")}
    assert all(p.stat().st_ino in stored for p in end.glob("*.safetensors"))
    trial = tmp_path / "store" / "tune" / "trials" / TrialSpec(**FIELDS).name
    for which in ("final", "initial", "rewind"):
        of_record, of_checkpoint = load_trial(trial, which), load_trial(tuner.checkpoints[3], which)
        for name, tensor in of_record.state_dict().items():
            assert torch.equal(tensor, of_checkpoint.state_dict()[name]), (which, name)
    weights = load_trial(level_1).get_parameter("1.weight")
    assert float((weights == 0).float().mean()) == pytest.approx(0.4, abs=1e-3)


def test_a_checkpoint_without_its_files_refers_to_the_store_until_they_are_deleted(
    tuner: Tuner, tmp_path: Path
) -> None:
    tuner.fit(tmp_path / "store")
    folder = Path(tuner.checkpoints[3].path)
    linked = load_trial(folder).state_dict()
    for file in folder.glob("*.safetensors"):
        file.unlink()
    assert all(torch.equal(tensor, linked[name]) for name, tensor in load_trial(folder).state_dict().items())
    shutil.rmtree(tmp_path / "store" / STATES)
    with pytest.raises(UserError, match=r"found neither weights.safetensors in it nor .*storage gc"):
        load_trial(folder)


def test_damaged_checkpoints_are_named(tuner: Tuner, tmp_path: Path) -> None:
    tuner.fit(tmp_path / "store")
    folder = Path(tuner.checkpoints[3].path)
    with pytest.raises(UserError, match="found no last weights; it has final, initial, rewind"):
        load_trial(folder, "last")
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).write_bytes(content[:-1] + b"?")
    with pytest.raises(UserError, match="found other bytes"):
        load_trial(folder)
    about = json.loads((folder / CHECKPOINT).read_text())
    for damage in ("{", "[]", "{}", json.dumps(about | {"files": {WEIGHTS: {"path": "../../etc/passwd"}}})):
        (folder / CHECKPOINT).write_text(damage)
        with pytest.raises(UserError, match="unreadable"):
            load_trial(folder)


def test_a_trial_that_tune_stopped_goes_on_where_it_was(tuner: Tuner, tmp_path: Path) -> None:
    """As after a pause, a kill of the worker, or `Tuner.restore`: Tune gives it its last checkpoint."""
    tuner.stops_after = 3
    with pytest.raises(SystemExit):
        tuner.fit(tmp_path / "store")
    before, tuner.stops_after = tuner.checkpoints[-1], math.inf
    reports = tuner.fit(tmp_path / "store", before)
    assert [r["level"] for r in reports] == [2]
    assert reports[-1]["epochs_trained"] == 1
    alone = run_trial(TrialSpec(**FIELDS), Store(tmp_path / "alone"))
    assert records(tmp_path / "store")[alone["trial"]]["sha256"] == alone["sha256"]


def test_on_a_gpu_a_restored_trial_keeps_whether_its_momentum_moves() -> None:
    """There, states of policies that move it have fingerprints of their own."""
    restored = Restored(trial="before", chain=(), lineage="0", epochs=1)
    one_cycle, cosine, steps = (TrialSpec(lr_policy=policy) for policy in ("one_cycle", "cosine", "steps"))
    _check_momentum(restored, steps, cosine)
    for spec, before in ((cosine, one_cycle), (one_cycle, cosine)):
        with pytest.raises(UserError, match=f"lr_policy: found '{spec.lr_policy}'; expected '{before.lr_policy}'"):
            _check_momentum(restored, spec, before)


def test_a_trial_restored_with_other_settings_says_so_and_is_no_ordinary_one(tuner: Tuner, tmp_path: Path) -> None:
    tuner.fit(tmp_path / "store")
    level_1, states = tuner.checkpoints[2], set((tmp_path / "store" / STATES).iterdir())
    bytes_before = {p: p.read_bytes() for p in (tmp_path / "store" / STATES).rglob("*") if p.is_file()}
    reports = tuner.fit(tmp_path / "store", level_1, lr=3e-3)
    assert [r["level"] for r in reports] == [2] and reports[-1]["epochs_trained"] == 1
    ordinary = TrialSpec(**FIELDS, lr=3e-3)
    (restored,) = (r for r in records(tmp_path / "store").values() if "restored" in r)
    assert restored["trial"].startswith(f"{ordinary.name}-restored-") and reports[-1]["trial"] == restored["trial"]
    about = restored["restored"]
    assert (about["from"], about["level"], about["epochs"]) == (TrialSpec(**FIELDS).name, 1, 3)
    assert restored["epochs"][0]["trained_by"] == TrialSpec(**FIELDS).name
    assert restored["epochs"][-1]["trained_by"] == restored["trial"] and restored["epochs"][-1]["lr"] == 3e-3
    alone = run_trial(ordinary, Store(tmp_path / "alone"))
    assert restored["key"] != alone["key"] and restored["sha256"]["weights"] != alone["sha256"]["weights"]
    assert all(path.read_bytes() == content for path, content in bytes_before.items()), "no other trial's state changed"
    assert set((tmp_path / "store" / STATES).iterdir()) > states
    again = tuner.fit(tmp_path / "store", level_1, lr=3e-3)
    assert again[-1]["epochs_trained"] == 0 and again[-1]["test_accuracy"] == reports[-1]["test_accuracy"]


def test_a_restored_trial_that_is_paused_stays_a_restored_one(tuner: Tuner, tmp_path: Path) -> None:
    tuner.fit(tmp_path / "store")
    tuner.stops_after = 1
    with pytest.raises(SystemExit):
        tuner.fit(tmp_path / "store", tuner.checkpoints[1], lr=3e-3)
    tuner.stops_after = math.inf
    reports = tuner.fit(tmp_path / "store", tuner.checkpoints[-1], lr=3e-3)
    assert [r["level"] for r in reports] == [2] and "-restored-" in reports[-1]["trial"]
    twice = tuner.fit(tmp_path / "store", tuner.checkpoints[-1], lr=3e-3, target_sparsity_pct=80.0)
    assert [r["level"] for r in twice] == [3, 4] and twice[-1]["trial"] != reports[-1]["trial"]


def test_a_deeper_target_from_a_checkpoint_is_an_ordinary_trial(tuner: Tuner, tmp_path: Path) -> None:
    tuner.fit(tmp_path / "store")
    reports = tuner.fit(tmp_path / "store", tuner.checkpoints[3], target_sparsity_pct=78.0)
    assert reports[-1]["trial"] == TrialSpec(**FIELDS | {"target_sparsity_pct": 78.0}).name
    assert [r["level"] for r in reports] == [3]


def test_a_finished_trial_restored_with_other_settings_ends_as_it_was(tuner: Tuner, tmp_path: Path) -> None:
    """As population-based training does after the last level."""
    finished = tuner.fit(tmp_path / "store")[-1]
    (again,) = tuner.fit(tmp_path / "store", tuner.checkpoints[3], lr=3e-3)
    assert again["epochs_trained"] == 0
    assert all(again[name] == finished[name] for name in ("trial", "test_accuracy", "levels_done"))
    assert len(records(tmp_path / "store")) == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"seed": 1}, r"restored from .*: seed: found 1; expected 0; after a restore only these may change: lr, "),
        ({"rewind_epoch": 0}, r"rewind_epoch: found 0; expected 1"),
        ({"target_sparsity_pct": 40.0, "lr": 3e-3}, "nothing is left to train"),
    ],
)
def test_a_restore_that_cannot_be_made_right_is_refused(
    tuner: Tuner, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    tuner.fit(tmp_path / "store")
    with pytest.raises(UserError, match=message):
        tuner.fit(tmp_path / "store", tuner.checkpoints[2], **config)


def test_a_restore_whose_state_is_gone_is_refused(tuner: Tuner, tmp_path: Path) -> None:
    tuner.fit(tmp_path / "store")
    with pytest.raises(UserError, match=r"found no state .* in .*; expected the one that the checkpoint is of"):
        tuner.fit(tmp_path / "other store", tuner.checkpoints[2], lr=3e-3)


def test_a_trial_that_diverges_is_told_with_numbers(tuner: Tuner, tmp_path: Path) -> None:
    reports = tuner.fit(tmp_path / "store", lr=1e30)
    assert reports[-1]["status"] == "diverged" and math.isnan(reports[-1]["valid_accuracy"])
    assert math.isnan(reports[-1]["test_accuracy"])


def test_numpy_scalars_and_whole_floats_are_what_they_mean() -> None:
    config = {
        "epochs": np.float64(3.0), "seed": np.int64(2), "lr": np.float32(0.5), "schedule": np.str_("imp"),
        "reset_end": np.bool_(True), "rewind_epoch": 1.0, "target_sparsity_pct": np.float64(64),
    }  # fmt: skip
    spec = Ticket.of(config).spec
    assert spec == TrialSpec(epochs=3, seed=2, lr=0.5, reset_end=True, rewind_epoch=1, target_sparsity_pct=64.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"target_sparcity_pct": 50}, "config: found 'target_sparcity_pct'; .* did you mean target_sparsity_pct?"),
        ({"storge": "/x"}, r"did you mean storage\?"),
        ({"xyz": 1}, r"found 'xyz'; .*help\(lth_trainable.TrialSpec\)"),
        ({"storage": "runs"}, "config: storage: found 'runs'; expected an absolute path or a URI"),
        ({"run": "../x"}, "config: run: found '../x'"),
        ({"threads": 0}, "config: threads: found 0"),
        ({"epochs": 2.5}, "epochs: found 2.5"),
        ({"target_sparsity_pct": 0.5}, "did you mean 50"),
    ],
)
def test_a_wrong_config_is_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Ticket.of(config)
    assert "\n" not in str(caught.value)


def test_the_package_offers_it_without_importing_ray() -> None:
    code = "import sys; from lth_trainable import __all__; print('ticket_trainable' in __all__, 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True False\n"
