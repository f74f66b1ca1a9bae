"""Names in words: what is read from a name is what its fields were."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.labels import both, common_label, control_label, dense_label, group_name, ladder_name, short_labels
from lth_trainable.spec.naming import trial_name
from lth_trainable.spec.trial_spec import TrialSpec, usual_values

CHANGES: tuple[dict[str, Any], ...] = (
    {}, {"order_seed": 7, "lr": 0.01}, {"rewind_epoch": None, "rewind_step": 500}, {"schedule": "omp", "epochs": 5},
    {"retrain": "lr_rewinding"}, {"lr_policy": "cosine", "lr": 1e-5}, {"optimizer": "sgd", "criterion": "movement"},
    {"control": "dense"}, {"control": "dense", "width_pct": 50.0}, {"control": "random_mask"}, {"split_seed": 3},
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_group_has_the_name_of_its_trials_without_their_seeds(change: dict[str, Any]) -> None:
    spec = TrialSpec(**({} if change.get("control") == "dense" else {"target_sparsity_pct": 87.04}) | change)
    usual = usual_values(spec.values)
    kept = {name: value for name, value in spec.values.items() if name not in ("seed", "order_seed")}
    assert group_name(spec.name) == trial_name(kept, usual)
    del kept["target_sparsity_pct"]
    assert ladder_name(spec.name) == trial_name(kept, usual)


def test_labels_are_what_tells_names_apart() -> None:
    ladders = ["digits-lenet_300_100-imp-r0", "digits-lenet_300_100-imp-r500it-lr0.01"]
    assert list(short_labels(ladders).values()) == ["rewind epoch 0", "rewind iteration 500, learning rate 0.01"]
    assert common_label(ladders) == "digits, LeNet-300-100, IMP"
    assert list(short_labels(ladders[:1]).values()) == ["IMP, rewind epoch 0"]
    assert common_label(ladders[:1]) == "digits, LeNet-300-100"
    assert common_label([]) == "" and short_labels([]) == {}


def test_a_small_number_is_written_as_one() -> None:
    assert common_label(["digits-lenet_300_100-imp-eps1e.05-r0", "digits-lenet_300_100-imp-eps1e.05-r1"]) == (
        "digits, LeNet-300-100, IMP, epsilon 1e-05"
    )


def test_an_imported_ticket_is_labelled_by_its_digits() -> None:
    (label,) = short_labels(["digits-lenet_300_100-ticket-r0-e4-t08627579.e2"]).values()
    assert label == "imported, rewind epoch 0, 4 epochs, 08627579.e2"


def test_baselines_in_words() -> None:
    assert (dense_label("dense-e20"), control_label("dense-e20")) == ("dense, 20 epochs", "dense")
    words = ("dense with restarts", "small dense", "shuffled mask", "random mask", "OMP", "LR rewinding")
    names = ("dense_restarts", "small_dense", "layerwise_shuffle", "random_mask", "omp", "lr_rewinding")
    assert tuple(map(dense_label, names)) == words


def test_labels_tell_apart_and_no_more() -> None:
    names = [f"digits-lenet_300_100-{rest}" for rest in ("imp-r0", "imp-r1", "agp", "imp-r0-p20-global")]
    assert list(short_labels(names).values()) == [
        "IMP, rewind epoch 0", "IMP, rewind epoch 1", "AGP", "IMP, rewind epoch 0, 20 % per level, global",
    ]  # fmt: skip
    assert short_labels(names[:2]) == {names[0]: "rewind epoch 0", names[1]: "rewind epoch 1"}
    assert short_labels(names[:1]) == {names[0]: "IMP, rewind epoch 0"}
    assert short_labels([names[0], names[3]])[names[0]] == "IMP"
    assert common_label(names) == "digits, LeNet-300-100"


def test_two_labels_in_one_say_common_words_once() -> None:
    assert both(["IMP, rewind epoch 0", "IMP, rewind epoch 1"]) == "IMP, rewind epoch 0 and 1"
    assert both(["rewind epoch 0", "rewind iteration 50"]) == "rewind epoch 0 and iteration 50"
    assert both(["movement", "large final"]) == "movement and large final"
    assert both(["rewind epoch 0"]) == "rewind epoch 0"
