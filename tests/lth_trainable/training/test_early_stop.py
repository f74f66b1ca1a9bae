"""Where the validation loss was least, seen by an onlooker that evaluates copies of the network with torch alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from sklearn.metrics import balanced_accuracy_score
from torch.nn.functional import cross_entropy

from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.segments import segments
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.image_bits import pack, to_bytes, unpack
from lth_trainable.store.store import Store
from lth_trainable.training.execution import Execution
from lth_trainable.training.learner import LevelClock
from lth_trainable.training.measure import balanced_accuracy
from lth_trainable.training.run import Keep, run_trial
from lth_trainable.training.trial import Trial

STEPS = 5  # in an epoch of 1150 pictures
CNN: dict[str, Any] = {
    "model": "tests.plugins:tiny_cnn", "batch_size": 230, "epochs": 4, "augment": "flip_shift", "lr": 0.05,
}  # fmt: skip
SPECS: dict[str, dict[str, Any]] = {
    "dense": {"control": "dense", "lr_policy": "one_cycle"},
    "levels": {"target_sparsity_pct": 64, "rewind_epoch": 1},
    "to an iteration": {"target_sparsity_pct": 64, "rewind_epoch": "7it", "optimizer": "sgd"},
    "fine_tuning": {"target_sparsity_pct": 40, "retrain": "fine_tuning"},
    "within a fit": {"schedule": "iterative", "target_sparsity_pct": 70, "epochs": 8, "rewind_epoch": 1},
}


class Onlooker(Callback):
    """Loss and accuracies of a copy of the network after every update; those since the last prune."""

    order = 90

    def __init__(self) -> None:
        data = load_dataset("digits")
        self.valid, self.test = (
            (torch.from_numpy(part.x), torch.from_numpy(part.y)) for part in (data.valid, data.test)
        )
        self.level, self.seen = -1, []  # type: tuple[int, list[tuple[float, float, float]]]
        self.right: list[dict[str, str]] = []  # as records have it, beside `seen`

    def after_batch(self) -> None:
        if not self.learn.training:
            return
        level = self.learn.epoch_log.describe()["level"]
        if level != self.level:
            self.level, self.seen, self.right = level, [], []
        model = copy.deepcopy(self.learn.model).eval()
        with torch.no_grad():
            valid, test = model(self.valid[0]), model(self.test[0])
        loss = cross_entropy(valid, self.valid[1]).item()
        self.seen.append((loss, accuracy(valid, self.valid[1]), accuracy(test, self.test[1])))
        outputs = {"valid": (valid, self.valid[1]), "test": (test, self.test[1])}
        self.right.append({split: pack((output.argmax(1) == y).numpy()) for split, (output, y) in outputs.items()})


def accuracy(output: torch.Tensor, y: torch.Tensor) -> float:
    return float((output.argmax(1) == y).sum()) / len(y)


def watched(monkeypatch: pytest.MonkeyPatch) -> Onlooker:
    """An onlooker of the next trial's fits."""
    onlooker, init = Onlooker(), Trial.__init__

    def with_onlooker(trial: Trial, *arguments: Any) -> None:
        init(trial, *arguments)
        trial.learn.add_cb(onlooker)

    monkeypatch.setattr(Trial, "__init__", with_onlooker)
    return onlooker


@pytest.mark.parametrize("every", [None, 1, 2, 3])
@pytest.mark.parametrize("name", SPECS)
def test_it_is_the_least_of_the_validations_and_the_weights_of_it(
    name: str, every: int | None, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TrialSpec(**CNN | SPECS[name], validate_every=every)
    onlooker = watched(monkeypatch)
    record = run_trial(spec, store)
    result, seen = record["result"], dict(enumerate(onlooker.seen, 1))
    total = sum(row["iterations"] for row in record["epochs"] if row["level"] == record["epochs"][-1]["level"])
    ends = range(total, 0, -STEPS)
    at = [i for i in seen if i in ends or (every is not None and i % every == 0)]
    found = min(at, key=lambda i: seen[i][0])
    assert len(seen) == total and (every is None or len(at) > len(ends))
    assert result["early_stop_iteration"] == found and result["early_stop_censored"] == (found == total)
    assert result["early_stop_valid_loss"] == pytest.approx(seen[found][0], rel=1e-5)
    assert (result["early_stop_valid_accuracy"], result["early_stop_test_accuracy"]) == seen[found][1:]
    assert result["early_stop_epoch"] == spec.epochs - 1 - (total - found) // STEPS
    assert result["test_accuracy"] == seen[total][2]
    assert record["right"] == {**onlooker.right[total - 1], "early_stop_test": onlooker.right[found - 1]["test"]}
    for split, part in (("valid", onlooker.valid), ("test", onlooker.test)):
        right = unpack(to_bytes(record["right"][split]), len(part[1]))
        assert right.mean() == pytest.approx(result[f"{split}_accuracy"], abs=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_validating_more_often_leaves_the_bytes_of_the_training_alone(name: str, store: Store) -> None:
    seldom, often = (TrialSpec(**CNN | SPECS[name], validate_every=every) for every in (None, 1))
    records = [run_trial(spec, store) for spec in (seldom, often)]
    for what in ("weights", "masks"):
        assert records[0]["sha256"][what] == records[1]["sha256"][what]
    assert records[1]["epochs_trained"] == records[0]["epochs_trained"], "they share no training: other histories"
    for one, other in zip(records[0]["epochs"], records[1]["epochs"], strict=True):
        free = {"seconds", "trained_by"}
        assert {k: v for k, v in one.items() if k not in free} == {k: v for k, v in other.items() if k not in free}
    assert records[1]["result"]["early_stop_valid_loss"] <= records[0]["result"]["early_stop_valid_loss"]


@pytest.mark.parametrize("every", [None, 3])
def test_it_is_carried_by_the_state_that_another_trial_starts_from(every: int | None, store: Store) -> None:
    """The least loss comes before the state, so whoever goes on must be told of it."""
    fields = {"control": "dense", "batch_size": 230, "lr": 0.03}
    short, long = (TrialSpec(**{**fields, "epochs": epochs}, validate_every=every) for epochs in (5, 7))
    alone = run_trial(long, Store(f"{store.root}-alone"))
    assert alone["result"]["early_stop_iteration"] < 5 * STEPS and not alone["result"]["early_stop_censored"]
    run_trial(short, store)
    shared = run_trial(long, store)
    assert shared["epochs_trained"] == 2 and shared["sha256"] == alone["sha256"]
    assert shared["result"] == alone["result"]


def test_a_new_level_begins_anew(store: Store) -> None:
    """States of the dense network carry its early stop, which is none of the ticket's."""
    spec = TrialSpec(**CNN | {"target_sparsity_pct": 40, "lr": 1e-7})
    dense, ticket = run_trial(TrialSpec(**CNN | {"control": "dense", "lr": 1e-7}), store), run_trial(spec, store)
    assert ticket["epochs_trained"] == 4
    assert ticket["result"]["early_stop_valid_loss"] > dense["result"]["early_stop_valid_loss"]
    assert ticket["result"]["early_stop_iteration"] <= 4 * STEPS


def test_looking_at_the_test_part_leaves_the_network_alone() -> None:
    trial = Trial(TrialSpec(**CNN, control="dense"), load_dataset("digits"), Execution(), None)
    trial.fit(0, 3, LevelClock())
    trial.early_stop.weights = copy.deepcopy(trial.initial)
    before = {name: tensor.clone() for name, tensor in trial.model.state_dict().items()}
    rng = torch.get_rng_state()
    state = trial.early_stop.state()
    assert state is not None and state["test_accuracy"] < 0.3, "that of the untrained network"
    assert all(torch.equal(before[name], tensor) for name, tensor in trial.model.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state()) and trial.early_stop.weights is None


def test_states_on_the_way_say_what_was_the_least_so_far(store: Store) -> None:
    spec = TrialSpec(**CNN, control="dense", validate_every=2)
    [_, line] = segments(spec, load_dataset("digits").digest)
    keep = Keep(states={line.key_at(epoch): True for epoch in (1, 2, 3)})
    run_trial(spec, store, keep=keep)
    for epoch in (1, 2, 3):
        short = TrialSpec(**{**CNN, "epochs": epoch}, control="dense", validate_every=2)
        record = run_trial(short, store)
        assert record["epochs_trained"] == 0
        assert record["sha256"] == run_trial(short, Store(f"{store.root}-{epoch}"))["sha256"]


def test_a_diverged_trial_and_a_supermask_have_none(store: Store) -> None:
    diverged = run_trial(TrialSpec(control="dense", epochs=2, optimizer="sgd", lr=1e30, validate_every=5), store)
    mask = run_trial(TrialSpec(schedule="one_shot", target_sparsity_pct=50, epochs=2, reset_end=True), store)
    for record in (diverged, mask):
        found = {name: value for name, value in record["result"].items() if name.startswith("early_stop")}
        assert len(found) == 6 and set(found.values()) == {None}
    assert diverged["status"] == "diverged" and diverged["result"]["balanced_accuracy"] is None
    assert mask["result"]["balanced_accuracy"] is not None and mask["result"]["chance_accuracy"] == 0.1
    assert set(diverged["right"].values()) == {None}
    assert mask["right"]["early_stop_test"] is None and mask["right"]["test"] is not None


def test_balanced_accuracy_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    y, predicted = rng.choice(6, 500, p=[0.5, 0.3, 0.1, 0.05, 0.05, 0]), rng.integers(0, 6, 500)
    predicted[::2] = y[::2]
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(y, predicted)
    assert balanced_accuracy(torch.from_numpy(y), torch.from_numpy(predicted == y)) == pytest.approx(
        expected, abs=1e-15
    )
