"""Which trials may be trained as one."""

from __future__ import annotations

from typing import Any

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stacking.shape import stack_shape

SGD = {"optimizer": "sgd", "lr": 0.1}


def shape(**fields: Any) -> Any:
    return stack_shape(TrialSpec(**{**SGD, **fields}))


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 7}, {"order_seed": 3}, {"lr": 0.01}, {"control": "reinit"}, {"control": "dense"}, {"epochs": 3},
        {"target_sparsity_pct": 90.0}, {"schedule": "agp"}, {"rewind_epoch": 2}, {"lr_policy": "cosine"},
        {"criterion": "movement"}, {"layers": "all"},
    ],
    ids=str,
)  # fmt: skip
def test_what_one_member_does_with_its_weights_may_differ(fields: dict[str, Any]) -> None:
    assert shape(**fields) == shape() is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"dataset": "mnist"}, {"split_seed": 1}, {"model": "conv_2"}, {"batch_size": 32}, {"augment": "flip"},
        {"optimizer": "adam"}, {"momentum": 0.8}, {"weight_decay": 1e-4}, {"precision": "bf16"},
        {"control": "dense", "width_pct": 50.0},
    ],
    ids=str,
)  # fmt: skip
def test_what_makes_another_step_may_not(fields: dict[str, Any]) -> None:
    assert None is not shape(**fields) != shape()


def test_some_trials_train_alone() -> None:
    assert shape(precision="fp16") is None
    assert shape(lr_policy="one_cycle") is None
    assert stack_shape(TrialSpec(), in_memory=False) is None
