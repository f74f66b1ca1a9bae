"""What returns at a rewind, seen by a callback at the first batch after it, cell by cell of the table in the design."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from lth_trainable.data.datasets import load_dataset
from lth_trainable.data.loaders import resident_loaders
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.run import run_trial
from tests.support.watch import BASE, COLUMNS, differing, watched

STEPS = 5  # in an epoch of 1150 pictures


END, NOTHING, OWN = 4 * STEPS, None, "own"  # of the dense network; an optimiser that has made no step; a level's own
# Row: its fields, and for each column the step of the dense run whose value the first batch after the rewind sees.
ROWS: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "weight_rewinding, epoch": ({"rewind_epoch": 1}, (5, 5, 5, 5, 5, 5, 5)),
    "weight_rewinding, epoch 0": ({"rewind_epoch": 0}, (0, 0, 0, NOTHING, 0, 0, 0)),
    "weight_rewinding, iteration": ({"rewind_epoch": "7it"}, (7, 7, 7, 7, 7, 7, 7)),
    "weight_rewinding, fresh": (
        {"rewind_epoch": "7it", "rewind_optimizer": "fresh"}, (7, 7, 7, NOTHING, 7, 7, 7)
    ),
    "lr_rewinding": ({"retrain": "lr_rewinding"}, (END, END, END, NOTHING, 0, OWN, OWN)),
    "fine_tuning": ({"retrain": "fine_tuning"}, (END, END, END, END, END - 1, OWN, OWN)),
    "weight_rewinding, new order": ({"rewind_epoch": 0, "retrain_order": "new"}, (0, 0, 0, NOTHING, 0, OWN, OWN)),
    "lr_rewinding, same order": (
        {"retrain": "lr_rewinding", "retrain_order": "same"}, (END, END, END, NOTHING, 0, 0, 0)
    ),
    "fine_tuning, same order": (
        {"retrain": "fine_tuning", "retrain_order": "same"}, (END, END, END, END, END - 1, 0, 0)
    ),
    "tutorial": ({"schedule": "one_shot", "rewind_epoch": 1, "start_pct": 0.5}, (5, 5, 5, 10, 10, 10, 10)),
}  # fmt: skip
CELLS = [(row, column) for row in ROWS for column in COLUMNS]


@pytest.mark.parametrize(("row", "column"), CELLS, ids=[f"{row}: {column}" for row, column in CELLS])
def test_what_returns(row: str, column: str) -> None:
    fields, points = ROWS[row]
    point = points[COLUMNS.index(column)]
    watch, dense = watched(tuple(fields.items())), watched((("control", "dense"),)).seen
    step = watch.first[1]
    ours = watch.seen[1, step][column]
    if point is NOTHING:
        assert ours == {} and dense[0, 1][column] != {}
    elif point == OWN:
        assert differing(ours, dense[0, step][column]) and step == 0
        if column == "order and augmentation":
            assert not differing(ours, own_batch(level=1, epoch=0))
    else:
        theirs = dense[0, point][column]
        if column == "weights":
            theirs = {n: torch.where(ours[n] == 0, 0.0, w) if n in pruned(ours) else w for n, w in theirs.items()}
        assert not differing(ours, theirs)
        others = {p for p in (0, 5, 7, 10, END - 1) if p != point}
        assert all(differing(ours, dense[0, other][column]) for other in others), "no other point would do"


def pruned(weights: dict[str, Tensor]) -> set[str]:
    found = {n for n, w in weights.items() if w.ndim == 4}
    for name in found:
        n = weights[name].numel()
        assert abs(int((weights[name] == 0).sum()) - 0.4 * n) <= 0.5, "the mask is in force"
    return found


def own_batch(level: int, epoch: int) -> dict[str, Tensor]:
    train = resident_loaders(load_dataset("digits"), batch_size=230, order_seed=0, augment="flip_shift").train
    train.level, train.epoch = level, epoch
    x, y = next(iter(train))
    return {"x": x, "y": y}


@pytest.mark.parametrize("retrain", ["lr_rewinding", "fine_tuning"])
def test_each_level_has_an_order_of_its_own(retrain: str) -> None:
    watch = watched((("retrain", retrain), ("target_sparsity_pct", 64)))
    for column in ("order and augmentation", "dropout"):
        first, second = (watch.seen[level, 0][column] for level in (1, 2))
        assert differing(first, second)
    rates = [watch.seen[2, step]["learning rate and momentum"] for step in range(END)]
    dense = watched((("control", "dense"),)).seen
    wanted = [dense[0, step if retrain == "lr_rewinding" else END - 1][COLUMNS[4]] for step in range(END)]
    assert rates == wanted


def test_fine_tuning_at_a_fraction_of_the_base_rate() -> None:
    """At every step of every level, whatever the policy; the dense network before them follows the policy."""
    fields = {"retrain": "fine_tuning", "target_sparsity_pct": 64, "fine_tuning_lr_fraction": 0.25}
    watch, usual = watched(tuple(fields.items())), watched((("retrain", "fine_tuning"), ("target_sparsity_pct", 64)))
    lr, column = TrialSpec(**BASE).lr, "learning rate and momentum"
    for level, step in itertools.product((1, 2), range(END)):
        rates, last = watch.seen[level, step][column], usual.seen[level, step][column]
        assert {name: float(value) for name, value in rates.items()} == {
            name: pytest.approx(lr / 4) if name == "lr" else float(value) for name, value in last.items()
        }
    assert [watch.seen[0, step][column] for step in range(END)] == [usual.seen[0, step][column] for step in range(END)]


OPTIMISERS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam", "lr": 0.01, "augment": "flip_shift"},
    "sgd": {"optimizer": "sgd", "lr": 0.05, "weight_decay": 1e-3},
}
POLICIES: dict[str, dict[str, Any]] = {
    "constant": {}, "warmup": {"warmup_pct": 0.3}, "steps": {"lr_drops": "0.3,0.7"}, "cosine": {"warmup_pct": 0.2},
    "one_cycle": {},
}  # fmt: skip


@pytest.fixture
def all_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrialSpec, "level_sparsities", property(lambda _: (Fraction(0), Fraction(0))))


@pytest.mark.usefixtures("all_ones")
@pytest.mark.parametrize(("policy", "optimizer"), list(itertools.product(POLICIES, OPTIMISERS)))
def test_rewinding_under_an_all_ones_mask_reproduces_the_dense_run(policy: str, optimizer: str, store: Store) -> None:
    """To an epoch and to an iteration, at two levels: weights, moments, order, augmentation, dropout all return."""
    fields = {
        **BASE, "epochs": 2, "lr_policy": policy, "augment": "none", **POLICIES[policy], **OPTIMISERS[optimizer],
    }  # fmt: skip
    dense = run_trial(TrialSpec(**fields, control="dense"), store)
    for number, k in enumerate((0, 1, "7it")):
        ticket = run_trial(TrialSpec(**fields, rewind_epoch=k), Store(f"{store.root}-{number}"))
        assert ticket["result"]["n_kept"] == ticket["result"]["n_weights"]
        assert ticket["sha256"]["weights"] == dense["sha256"]["weights"], k
        whole = {(row["level"], row["epoch"]): row for row in ticket["epochs"] if k != "7it" or row["level"] == 0}
        for (_, epoch), row in whole.items():
            assert row["train_loss"] == dense["epochs"][epoch]["train_loss"]
        for name in ("valid_loss", "valid_accuracy", "test_loss", "test_accuracy", "balanced_accuracy"):
            assert ticket["result"][name] == dense["result"][name], name


@pytest.mark.usefixtures("all_ones")
def test_the_same_with_the_network_of_the_recipes(store: Store) -> None:
    dense = run_trial(TrialSpec(control="dense", epochs=3), store)
    ticket = run_trial(TrialSpec(epochs=3, rewind_epoch=1), Store(f"{store.root}-ticket"))
    assert ticket["sha256"]["weights"] == dense["sha256"]["weights"] and ticket["epochs_trained"] == 7


@pytest.mark.parametrize(
    "fields", [{"rewind_optimizer": "fresh"}, {"retrain": "lr_rewinding"}, {"retrain": "fine_tuning"}]
)
@pytest.mark.usefixtures("all_ones")
def test_any_other_way_to_retrain_does_not_reproduce_it(fields: dict[str, Any], store: Store) -> None:
    """So the test above can fail: what it asserts is no property of all retraining."""
    dense = run_trial(TrialSpec(**{**BASE, "epochs": 2, "control": "dense"}), store)
    ticket = run_trial(TrialSpec(**{**BASE, "epochs": 2, "rewind_epoch": 1, **fields}), Store(f"{store.root}-ticket"))
    assert ticket["sha256"]["weights"] != dense["sha256"]["weights"]
