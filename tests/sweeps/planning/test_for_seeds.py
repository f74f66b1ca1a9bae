"""The plan of some of a plan's seeds is what `make_plan` makes of their trials alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.experiments.expand import expand
from sweeps.experiments.recipes import digits, digits_tutorial
from sweeps.planning.plan import Plan
from sweeps.planning.work import as_json, work_left
from tests.support.plans import GRIDS, dense, imp, one_shot, planned, states_of

SHORT: dict[str, Any] = {"epochs": 20, "prune_rate_pct": 40}


def with_branches() -> list[TrialSpec]:
    sweep = replace(
        digits(), seeds=(0, 1, 2), controls=("reinit", "random_mask"), baselines=("dense", "dense_restarts", "omp")
    )
    return list(expand(sweep).trials)


GRIDS_OF_SEEDS: dict[str, list[TrialSpec]] = {
    "imp": GRIDS["imp"],
    "imp, one-shot and lr rewinding": GRIDS["imp, one-shot and lr rewinding"],
    "two rates and learning rates": [
        *imp((1, 2), (0, 1), 3, epochs=20), *imp((2, 3), (0, 5), 3, epochs=20, lr=0.1),
        *(replace(spec, prune_rate_pct=40, target_sparsity_pct=64.0) for spec in imp((1,), (0, 1), 3, epochs=20)),
    ],
    "rewinds to iterations": [
        *dense(3, epochs=20), *imp((1, 2), (0, 1, "7it", "30it"), 3, **SHORT), *one_shot((3,), ("30it",), 3, **SHORT),
    ],
    "controls and baselines": with_branches(),
    "within a fit": list(expand(replace(digits_tutorial(), seeds=(0, 1, 2))).trials),
    "orders of the data": [replace(spec, order_seed=7) for spec in imp((1, 2), (0, "7it"), 3, **SHORT)],
}  # fmt: skip


def as_found(plan: Plan) -> dict[str, Any]:
    """All that a plan says, without the identity of its nodes."""
    return {
        "policy": plan.policy,
        "points": [(key, list(points.items())) for key, points in plan.mid_epoch_points.items()],
        "nodes": [
            (
                node.key, node.parts, node.level, node.above, node.epochs, node.parent and node.parent.key,
                [child.key for child in node.children], [trial.name for trial in node.trials],
                node.waits_for and node.waits_for.key,
            )
            for node in plan.nodes
        ],
        "trials": [
            (
                trial.spec, trial.name, trial.key, trial.chain, trial.end.key, trial.rewind and trial.rewind.key,
                trial.mid_epoch_point and (
                    trial.mid_epoch_point.key, trial.mid_epoch_point.line, trial.mid_epoch_point.node.key,
                    trial.mid_epoch_point.epochs_done, trial.mid_epoch_point.epochs_started,
                ),
                list(plan.keep(trial).items()), list(plan.rewind_steps(trial).items()),
            )
            for trial in plan.trials
        ],
        "epochs": (plan.epochs_requested, plan.epochs_distinct),
        "figures": as_json(plan, work_left(plan, (), ())),
    }  # fmt: skip


@pytest.mark.parametrize("policy", ["needed", "levels", "none"])
@pytest.mark.parametrize("grid", GRIDS_OF_SEEDS)
def test_the_plan_of_some_seeds_is_that_of_their_trials_alone(grid: str, policy: str) -> None:
    specs = GRIDS_OF_SEEDS[grid]
    whole, before = planned(specs, policy), as_found(planned(specs, policy))
    for seeds in ((0,), (0, 1), (2, 0), tuple(sorted({spec.seed for spec in specs}))):
        alone = planned((spec for spec in specs if spec.seed in seeds), policy)
        assert as_found(whole.for_seeds(seeds)) == as_found(alone)
        assert as_found(whole.for_seeds((0, *seeds)).for_seeds(seeds)) == as_found(alone)
    assert as_found(whole) == before, "the whole plan stays as it is"


@pytest.mark.parametrize("grid", GRIDS_OF_SEEDS)
def test_what_is_left_of_some_seeds_is_what_is_left_of_them_alone(grid: str) -> None:
    specs = GRIDS_OF_SEEDS[grid]
    whole, alone = planned(specs), planned(spec for spec in specs if spec.seed < 2)
    names: Iterable[str] = [trial.name for trial in whole.trials][::3]
    ours, theirs = (work_left(plan, set(names), states_of(whole, names)) for plan in (whole.for_seeds((0, 1)), alone))
    assert [node.key for node in ours.nodes] == [node.key for node in theirs.nodes]
    assert (ours.epochs, ours.critical_path, ours.of_trial) == (theirs.epochs, theirs.critical_path, theirs.of_trial)


@pytest.mark.parametrize("name", ["digits", "digits_tutorial"])
def test_the_trials_of_some_seeds_are_those_of_a_sweep_of_these_seeds(name: str) -> None:
    """This is why a look can take its trials from the plan of all seeds: their order, and so plan.json, is the same."""
    recipe = {"digits": digits, "digits_tutorial": digits_tutorial}[name]()
    sweep = replace(recipe, controls=("all",), baselines=("all",), seeds=tuple(range(4)))
    all_of_them, some = expand(sweep), expand(replace(sweep, seeds=(0, 1)))
    assert [spec for spec in all_of_them.trials if spec.seed < 2] == list(some.trials)
    assert {name: all_of_them.roles[name] for name in some.roles} == dict(some.roles)
