"""Damaged states are set aside, and what they held is trained again from the state before them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lth_trainable.spec.segments import rewind_key
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import HISTORY, MANIFEST, MASKS, STATES, TRAINING, WEIGHTS, Store
from lth_trainable.store.trials import load_trial
from lth_trainable.training.run import Keep, run_trial
from tests.support.kills import (
    SPECS,
    TICKET,
    chain_of,
    file_of,
    folders,
    kill,
    mark_of,
    state_of,
    temporary,
    uninterrupted,
)

pytestmark = pytest.mark.usefixtures("every_epoch_is_stored")


def damage(folder: Path, how: str, name: str) -> None:
    manifest, target = folder / MANIFEST, file_of(folder, name)
    content = target.read_bytes()
    if how == "truncated":
        target.write_bytes(content[: len(content) // 2])
    elif how == "altered":
        target.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif how == "missing":
        target.unlink()
    elif how == "manifest cut":
        manifest.write_bytes(manifest.read_bytes()[:40])
    else:
        manifest.unlink()


@pytest.mark.parametrize(
    ("how", "name"),
    [*((how, name) for how in ("altered", "truncated") for name in (WEIGHTS, TRAINING, HISTORY, MASKS)),
     ("missing", TRAINING), ("manifest cut", WEIGHTS), ("half-written", WEIGHTS)],
)  # fmt: skip
def test_a_damaged_state_is_set_aside_and_trained_again_from_the_one_before(how: str, name: str, store: Store) -> None:
    spec, whole, reports = TrialSpec(**TICKET), uninterrupted("imp", store.root), []
    chain = chain_of(spec)
    keys = [segment.key for segment in chain if segment.kind == "train"]  # of epoch 1, epoch 3, and of two levels
    keep = Keep(states=dict.fromkeys(keys, False))
    assert run_trial(spec, store, "r", keep=keep)["epochs_trained"] == 7
    damage(state_of(store, keys[-1]), how, name)
    again = run_trial(spec, store, "r", keep=keep, on_note=reports.append)
    assert again["sha256"] == whole["sha256"] and again["epochs_trained"] == 2, "from the level before"
    aside = list(Path(store.root, STATES, "quarantine").glob("*"))
    assert len(aside) == len(reports) == (how != "half-written")
    for folder in aside:
        assert keys[-1] in (folder / "reason.txt").read_text() and keys[-1] in reports[0]
    assert run_trial(spec, store, "r", keep=keep)["epochs_trained"] == 0


@pytest.mark.parametrize("which", ["initial", "rewind", "final"])
def test_whatever_a_record_refers_to_is_whole_again(which: str, store: Store) -> None:
    spec = TrialSpec(**TICKET)
    first = run_trial(spec, store, "r")
    damage(state_of(store, first["states"][which]), "altered", WEIGHTS)
    again = run_trial(spec, store, "r")
    assert again["sha256"] == first["sha256"]
    load_trial(f"{store.root}/r/trials/{spec.name}", which)
    assert again["epochs_trained"] == {"initial": 0, "rewind": 1, "final": 6}[which]


def test_a_damaged_passing_state_is_set_aside(store: Store) -> None:
    spec = TrialSpec(**TICKET)
    kill(spec, store, 4)
    [last] = temporary(store)
    damage(last, "altered", TRAINING)
    record = run_trial(spec, store, "r")
    assert record["sha256"] == uninterrupted("imp", store.root)["sha256"]
    assert record["epochs_trained"] == 6 and temporary(store) == [], "from the rewind point"


@pytest.mark.parametrize(("name", "anew"), [("imp", 1), ("imp to an iteration", 1), ("iterative", 7)])
def test_a_lost_rewind_point_is_made_again_without_what_comes_after(name: str, anew: int, store: Store) -> None:
    """Of schedules within one fit the prunes come by again, so that everything after the point does."""
    spec = TrialSpec(**SPECS[name])
    kill(spec, store, 6)
    key = rewind_key(spec, chain_of(spec))
    assert key is not None
    for file in (folder := state_of(store, key)).iterdir():
        file.unlink()
    folder.rmdir()
    record = run_trial(spec, store, "r")
    whole = uninterrupted(name, store.root)
    assert record["sha256"] == whole["sha256"] and [folder.name for folder in folders(store, key)] == [mark_of()]
    assert record["epochs_trained"] == (anew + whole["epochs_trained"] - 6 if name.startswith("imp") else 8)
