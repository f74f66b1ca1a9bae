"""Which states training can go on from with their optimiser: the same answer for every trial that has the state."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from lth_trainable.errors import UserError
from lth_trainable.spec.segments import Segment, needs_optimizer, rewind_key, segments
from lth_trainable.spec.trial_spec import TrialSpec

DATA, STEPS = "d" * 64, 20
CONTROLS = ("none", "dense", "dense_restarts", "random_mask", "reinit", "sign_flip", "layerwise_shuffle")
MANY: tuple[dict[str, tuple[Any, ...]], ...] = (
    {
        "schedule": ("imp", "omp"), "retrain": ("weight_rewinding", "lr_rewinding", "fine_tuning"),
        "rewind_epoch": (0, 1, "30it"), "rewind_optimizer": ("restored", "fresh"), "control": CONTROLS,
        "target_sparsity_pct": (64.0, 80.0), "epochs": (4, 8), "lr_policy": ("constant", "cosine"),
    },
    {
        "schedule": ("one_shot", "iterative", "agp", "dsd"), "start_pct": (0.125, 0.25), "control": CONTROLS,
        "reset_end": (False, True), "retrain": ("tutorial", "none"), "epochs": (8, 16),
        "lr_policy": ("constant", "cosine"),
    },
    {
        "schedule": (None,), "ticket": ("a" * 64, "a" * 64 + "-e1"), "control": CONTROLS, "epochs": (4, 8),
        "lr_policy": ("constant", "cosine"),
    },
)  # fmt: skip


def specs() -> Iterator[TrialSpec]:
    """All combinations that are trials."""
    for axes in MANY:
        for values in itertools.product(*axes.values()):
            try:
                yield TrialSpec(**dict(zip(axes, values, strict=True)))
            except UserError:
                continue


CHAINS = {spec: segments(spec, DATA, STEPS) for spec in specs()}


def states(chain: tuple[Segment, ...]) -> Iterator[tuple[int, int, str]]:
    """Index of the segment, epoch and key of every state of training."""
    for index, segment in enumerate(chain):
        for epoch in range(segment.start + 1, segment.end + 1) if segment.line else ():
            yield index, epoch, segment.key_at(epoch)


def test_all_trials_with_a_state_give_the_same_answer() -> None:
    answers: dict[str, set[bool]] = {}
    for spec, chain in CHAINS.items():
        for index, epoch, key in states(chain):
            answers.setdefault(key, set()).add(needs_optimizer(spec, chain[index], epoch))
    found = list(answers.values())
    assert len(CHAINS) > 500 and all(len(answer) == 1 for answer in found)
    assert {True} in found and {False} in found


def test_where_it_is_not_needed_nothing_is_trained_before_another_one_is_there() -> None:
    for spec, chain in CHAINS.items():
        returned_to = rewind_key(spec, chain)
        for index, epoch, key in states(chain):
            if needs_optimizer(spec, chain[index], epoch):
                continue
            assert epoch == chain[index].end and key != returned_to
            rest = [segment.kind for segment in chain[index + 1 :]]
            if "train" in rest:
                before = rest[: rest.index("train")]
                assert spec.family == "levels" and before[-1] in ("rewind", "control")
                assert spec.retrain != "fine_tuning" or (before[-1] == "control" and spec.starts_over)


@pytest.mark.parametrize(
    ("fields", "levels"),
    [
        ({"control": "dense"}, set()),
        ({"target_sparsity_pct": 64}, {1, 2}),
        ({"target_sparsity_pct": 64, "control": "dense_restarts", "retrain": "lr_rewinding"}, {1, 2}),
        ({"target_sparsity_pct": 64, "retrain": "fine_tuning"}, set()),
        ({"target_sparsity_pct": 64, "retrain": "fine_tuning", "control": "reinit"}, {2}),
        ({"schedule": "one_shot", "lr_policy": "cosine"}, {1}),
        ({"schedule": "iterative", "lr_policy": "cosine", "control": "sign_flip"}, {3}),
        ({"schedule": "one_shot"}, set()),
        ({"schedule": None, "ticket": "a" * 64, "lr_policy": "cosine"}, set()),
    ],
)
def test_the_levels_at_whose_end_nobody_needs_it(fields: dict[str, Any], levels: set[int]) -> None:
    spec = TrialSpec(**fields)
    chain = segments(spec, DATA, STEPS)
    ends = [(chain[index].level, needs_optimizer(spec, chain[index], epoch)) for index, epoch, _ in states(chain)]
    assert {level for level, is_needed in ends if not is_needed} == levels


def test_a_longer_fit_at_a_constant_rate_goes_on_where_a_shorter_one_ends() -> None:
    """Both prune after two epochs. So the end of the shorter one needs its optimiser."""
    fit: dict[str, Any] = {"schedule": "one_shot", "target_sparsity_pct": 50.0}
    short, long = TrialSpec(**fit, start_pct=0.25, epochs=8), TrialSpec(**fit, start_pct=0.125, epochs=16)
    end, goes_on = (segments(spec, DATA, STEPS)[-1] for spec in (short, long))
    assert goes_on.key_at(8) == end.key and needs_optimizer(short, end, 8)
