"""Grids of trials and their plans, for tests without training."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.planning.plan import Facts, Plan, PlannedTrial, make_plan

FACTS = {("digits", 0): Facts(digest="d", n_train=1200)}  # 20 iterations an epoch with the default batch of 60
LEVELS, KS, SEEDS = (3, 6, 10, 15, 20), (0, 1, 5, 10), 5


def rung(level: int) -> float:
    """Sparsity (percent) at this level, with a rate of 20 %."""
    return round(100 * (1 - 0.8**level), 4)


def imp(levels: Iterable[int] = LEVELS, ks: Sequence[Any] = KS, seeds: int = SEEDS, **fields: Any) -> list[TrialSpec]:
    """Tickets with a rate of 20 % a level, and 160 epochs a level by default."""
    fields = {"epochs": 160, "prune_rate_pct": 20, **fields}
    return [
        TrialSpec(target_sparsity_pct=rung(level), rewind_epoch=k, seed=seed, **fields)
        for seed in range(seeds) for k in ks for level in levels
    ]  # fmt: skip


def lr_rewinding(levels: Iterable[int] = LEVELS, seeds: int = SEEDS, **fields: Any) -> list[TrialSpec]:
    return imp(levels, (None,), seeds, retrain="lr_rewinding", **fields)


def one_shot(levels: Iterable[int] = LEVELS, ks: Sequence[Any] = KS, seeds: int = SEEDS, **f: Any) -> list[TrialSpec]:
    return imp(levels, ks, seeds, schedule="omp", **f)


def dense(seeds: int = SEEDS, **fields: Any) -> list[TrialSpec]:
    return [TrialSpec(control="dense", seed=seed, **{"epochs": 160, **fields}) for seed in range(seeds)]


GRIDS: dict[str, list[TrialSpec]] = {
    "imp": imp(),
    "imp, one-shot and lr rewinding": [*imp(), *lr_rewinding(), *one_shot()],
    "all 20 levels": imp(range(1, 21)),
    "one-shot": one_shot(),
}


def planned(specs: Iterable[TrialSpec], policy: str = "needed") -> Plan:
    return make_plan(list(dict.fromkeys(specs)), FACTS, policy)


def find(plan: Plan, **fields: Any) -> PlannedTrial:
    """The only trial with these fields."""
    (found,) = [t for t in plan.trials if all(getattr(t.spec, name) == value for name, value in fields.items())]
    return found


@functools.cache
def keys_on_path(trial: PlannedTrial) -> list[str]:
    """Keys of the states after each epoch of the trial, in order."""
    return [s.key_at(e) for s in trial.chain if s.kind == "train" for e in range(s.start + 1, s.end + 1)]


def states_of(plan: Plan, names: Iterable[str] | None = None) -> set[str]:
    """Keys of the states that exist once these trials (by default all) have been trained."""
    wanted = {trial.name for trial in plan.trials} if names is None else set(names)
    nodes = {node.key: node for trial in plan.trials if trial.name in wanted for node in trial.end.path()}
    return set(nodes) | {key for node in nodes for key in plan.mid_epoch_points.get(node, {}).values()}
