"""States without an optimiser: which ones, how much smaller they are, and that all trials go on as with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import lth_trainable.training.lifecycle as lifecycle_module
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import MANIFEST, STATES, TRAINING, WEIGHTS, Store
from lth_trainable.training.run import Keep, run_trial
from tests.support.kills import CNN, SPECS, TICKET, chain_of, file_of, kill, state_of, temporary, uninterrupted

MOVING = {"lr_policy": "cosine"}
FIT = {**SPECS["one_shot"], **MOVING, "reset_end": False, "rewind_epoch": 1}
STEPS: dict[str, Any] = {**SPECS["iterative"], **MOVING}


def keep_all(spec: TrialSpec) -> Keep:
    """All states in which a stretch of training ends are stored."""
    chain = chain_of(spec)
    return Keep(states={s.key: s is chain[-1] for s in chain if s.kind == "train"})


def manifest_of(store: Store, key: str) -> Any:
    return json.loads((state_of(store, key) / MANIFEST).read_text())


def moments_in(store: Store, key: str) -> list[str]:
    return [name for name in load_file(file_of(state_of(store, key), TRAINING)) if name.startswith("optimizer/")]


@pytest.mark.parametrize(
    ("fields", "levels"),
    [
        (SPECS["dense"], set()), (TICKET, {1, 2}), (SPECS["imp, fresh optimiser"], {1, 2}),
        (SPECS["lr_rewinding"], {1, 2}), (SPECS["fine_tuning"], set()), (SPECS["random_mask"], {1, 2}),
        ({**SPECS["fine_tuning"], "control": "reinit"}, {2}), (SPECS["iterative"], set()), (STEPS, {3}), (FIT, {1}),
    ],
)  # fmt: skip
def test_which_states_have_an_optimiser(fields: dict[str, Any], levels: set[int], store: Store) -> None:
    spec = TrialSpec(**fields)
    run_trial(spec, store, "r", keep=keep_all(spec))
    for segment in (s for s in chain_of(spec) if s.kind == "train"):
        is_left_out = segment.level in levels and segment.end == spec.epochs
        manifest = manifest_of(store, segment.key)
        assert manifest["complete"] and ("optimizer" not in manifest) is not is_left_out
        assert (not moments_in(store, segment.key)) is is_left_out
        weights, more = (manifest["files"][name]["size"] for name in (WEIGHTS, TRAINING))
        moments = 2 if spec.optimizer == "adam" else 1
        assert more < weights if is_left_out else moments * 0.9 * weights < more


ONE_AFTER_ANOTHER: dict[str, tuple[dict[str, Any], ...]] = {
    "levels": (
        TICKET, {**TICKET, "target_sparsity_pct": 78.4}, {**TICKET, "control": "dense"}, SPECS["random_mask"],
        {**SPECS["random_mask"], "target_sparsity_pct": 78.4}, {**TICKET, "control": "reinit"},
        {**TICKET, "control": "dense_restarts", "rewind_optimizer": "fresh"}, {**TICKET, "schedule": "omp"},
        {**TICKET, "retrain": "lr_rewinding", "rewind_epoch": None},
        {**TICKET, "retrain": "lr_rewinding", "rewind_epoch": None, "target_sparsity_pct": 78.4},
        {**TICKET, "retrain": "fine_tuning", "rewind_epoch": None},
        {**TICKET, "retrain": "fine_tuning", "rewind_epoch": None, "target_sparsity_pct": 78.4},
    ),
    "a constant rate": (
        SPECS["imp to an iteration"], {**SPECS["dense"], "epochs": 3}, SPECS["dense"],
        {**SPECS["imp to an iteration"], "rewind_epoch": 1}, SPECS["imp, fresh optimiser"],
        {**SPECS["imp to an iteration"], "target_sparsity_pct": 78.4, "criterion": "updating_movement"},
        SPECS["imp, global movement"], {**SPECS["imp, global movement"], "target_sparsity_pct": 78.4},
    ),
    "one fit": (
        FIT, {**FIT, "reset_end": True}, {**FIT, "reset_end": True, "control": "sign_shuffle"},
        {**FIT, "control": "layerwise_shuffle"}, {**FIT, "control": "dense"}, {**FIT, "target_sparsity_pct": 80.0},
        STEPS, {**STEPS, "control": "reinit"}, {**STEPS, "reset_end": True, "retrain": "none"},
        {**STEPS, "reset_end": True, "retrain": "none", "control": "layerwise_shuffle"},
        {**SPECS["dsd"], **MOVING}, {**SPECS["agp"], **MOVING},
    ),
    "one fit at a constant rate": (
        {**SPECS["one_shot"], "epochs": 4, "start_pct": 0.25, "reset_end": False},
        {**SPECS["one_shot"], "epochs": 8, "start_pct": 0.125, "reset_end": False}, SPECS["one_shot"],
    ),
}  # fmt: skip


def trained(root: Path, name: str, fields: tuple[dict[str, Any], ...] = ()) -> list[tuple[Any, Any]]:
    """Run trials one after another, as commands that add them would; digests and epochs trained of each."""
    store = Store(root)
    records = [run_trial(TrialSpec(**f), store, "r") for f in fields or ONE_AFTER_ANOTHER[name]]
    return [(record["sha256"], record["epochs_trained"]) for record in records]


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(root, STATES).rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ONE_AFTER_ANOTHER)
def test_what_is_added_later_is_as_with_all_optimisers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nothing is trained that was trained before. A storage in which all states have theirs is used as it is."""
    found = trained(tmp_path / "new", name)
    with monkeypatch.context() as earlier:
        earlier.setattr(lifecycle_module, "needs_optimizer", lambda *_: True)
        assert trained(tmp_path / "old", name) == found
        trained(tmp_path / "mixed", name, ONE_AFTER_ANOTHER[name][:1])
    before = bytes_of(tmp_path / "mixed")
    again = trained(tmp_path / "mixed", name)
    assert again == [(found[0][0], 0), *found[1:]]
    assert before.items() <= bytes_of(tmp_path / "mixed").items(), "states that are there stay as they are"


@pytest.mark.parametrize(("name", "level", "anew"), [("fine_tuning", 1, 9), ("iterative", 1, 7), ("dense", 0, 5)])
def test_a_trial_never_goes_on_without_an_optimiser_that_it_needs(
    name: str, level: int, anew: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a state should not exist. The trial goes on from an earlier one, here the rewind point, or starts anew."""
    spec, whole = TrialSpec(**SPECS[name]), uninterrupted(name, store.root)
    monkeypatch.setattr(lifecycle_module, "RESUME_SECONDS", 0.0)
    with monkeypatch.context() as wrong:
        wrong.setattr(lifecycle_module, "needs_optimizer", lambda _, segment, epoch: segment.level < level)
        kill(spec, store, whole["epochs_trained"] - 1)
    [last] = temporary(store)
    assert json.loads((last / MANIFEST).read_text())["optimizer"] is False
    record = run_trial(spec, store, "r")
    assert record["sha256"] == whole["sha256"] and record["epochs_trained"] == anew
    assert temporary(store) == []


def test_a_state_is_stored_again_if_a_trial_brings_the_optimiser_that_it_lacks(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TrialSpec(**{**CNN, "control": "dense", "epochs": 2})
    longer = TrialSpec(**{**CNN, "control": "dense", "epochs": 4})
    with monkeypatch.context() as wrong:
        wrong.setattr(lifecycle_module, "needs_optimizer", lambda *_: False)
        run_trial(spec, store, "r")
    key = chain_of(spec)[-1].key
    assert moments_in(store, key) == []
    assert run_trial(longer, store, "r", keep=Keep(states={key: True}))["epochs_trained"] == 4
    assert moments_in(store, key) and "optimizer" not in manifest_of(store, key)
    assert run_trial(spec, store, "r")["epochs_trained"] == 0
