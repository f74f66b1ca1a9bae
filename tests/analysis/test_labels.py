"""Names in words: what is read from a name is what its fields were."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.labels import SEEDS, common_label, control_label, dense_label, short_labels, without_fields
from analysis.verdicts.groups import group_name, ladder_name
from lth_trainable.spec.trial_spec import TrialSpec

CHANGES: tuple[dict[str, Any], ...] = (
    {}, {"order_seed": 7, "lr": 0.01}, {"rewind_epoch": None, "rewind_step": 500}, {"schedule": "omp", "epochs": 5},
    {"retrain": "lr_rewinding"}, {"lr_policy": "cosine", "lr": 1e-5}, {"optimizer": "sgd", "criterion": "movement"},
    {"control": "dense"}, {"control": "dense", "width_pct": 50.0}, {"control": "random_mask"}, {"split_seed": 3},
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_name_without_its_seeds_is_that_of_the_group(change: dict[str, Any]) -> None:
    spec = TrialSpec(**({} if change.get("control") == "dense" else {"target_sparsity_pct": 87.04}) | change)
    assert without_fields(spec.name, SEEDS) == group_name(spec.canonical())
    assert without_fields(spec.name, (*SEEDS, "target_sparsity_pct")) == ladder_name(spec.canonical())


def test_labels_are_what_tells_names_apart() -> None:
    ladders = ["digits-lenet_300_100-imp-r0", "digits-lenet_300_100-imp-r500it-lr0.01"]
    assert list(short_labels(ladders).values()) == ["rewind epoch 0", "rewind iteration 500, learning rate 0.01"]
    assert common_label(ladders) == "digits, LeNet-300-100, IMP"
    assert list(short_labels(ladders[:1]).values()) == ["IMP, rewind epoch 0"]
    assert common_label(ladders[:1]) == "digits, LeNet-300-100"
    assert common_label([]) == "" and short_labels([]) == {}


def test_an_imported_ticket_is_labelled_by_its_digits() -> None:
    (label,) = short_labels(["digits-lenet_300_100-ticket-r0-e4-t08627579.e2"]).values()
    assert label == "imported, rewind epoch 0, 4 epochs, 08627579.e2"


def test_baselines_in_words() -> None:
    assert (dense_label("dense-e20"), control_label("dense-e20")) == ("dense, 20 epochs", "dense")
    words = ("dense with restarts", "small dense", "shuffled mask", "random mask", "OMP", "LR rewinding")
    names = ("dense_restarts", "small_dense", "layerwise_shuffle", "random_mask", "omp", "lr_rewinding")
    assert tuple(map(dense_label, names)) == words
