"""A synthetic run of LeNet on MNIST that is held against published figures: tickets, reinitialised networks, dense."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.published.claims import claims_of
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store, to_json
from tests.support.records import plan, record, seal

MARGINS = {
    "lenet_early_stop_21": 10.0, "lenet_accuracy_13": 0.0, "lenet_back_to_dense_3.6": 0.2, "lenet_reinit_speed_21": 0.5,
    "lenet_reinit_accuracy_21": 0.2, "lenet_reinit_falls_below": 3.0, "lenet_tickets_fall_below": 3.0,
}  # fmt: skip
LENET: dict[str, Any] = {
    "dataset": "mnist", "epochs": 55, "prune_rate_pct": 20.0, "output_prune_rate_pct": 10.0, "validate_every": 100,
}  # fmt: skip
LEVELS = (48.8, 73.79, 79.03, 86.58, 93.13, 96.48, 97.19, 97.75, 98.2)  # of the ladder of 20 % a round

Outcome = Mapping[str, float]  # accuracy (percent) and stop (iterations) of an arm at a level
Arm = Callable[[str, float], Outcome]


def as_published(arm: str, left_pct: float) -> Outcome:
    """What the paper says, as far as it says it."""
    if arm == "dense":
        return {"accuracy": 98.0, "stop": 5000}
    gain = 0.35 if left_pct > 15 else 0.42 if left_pct > 10 else 0.2 if left_pct > 5 else 0.0 if left_pct > 3 else -0.6
    if arm == "none":
        return {"accuracy": 98.0 + gain, "stop": 3100}
    return {"accuracy": 98.0 if left_pct > 30 else 97.85 - 3 / left_pct, "stop": 7780}


def trials_of(seeds: int = 8) -> list[TrialSpec]:
    tickets = [TrialSpec(**LENET, target_sparsity_pct=pct, seed=seed) for seed in range(seeds) for pct in LEVELS]
    dense = [TrialSpec(dataset="mnist", control="dense", epochs=55, validate_every=100, seed=s) for s in range(seeds)]
    return [*dense, *tickets, *(replace(ticket, control="reinit") for ticket in tickets)]


def lenet_record(spec: TrialSpec, arm: Arm, spread_pp: float = 0.05, spread_of_stop: float = 0.04) -> dict[str, Any]:
    """A record with the early stop that `arm` gives it, and a deviation that the seed and the name fix."""
    left = 100.0 if spec.is_dense else 100 - float(spec.target_sparsity_pct or 0)
    found, rng = arm(spec.control, left), np.random.default_rng([spec.seed, *spec.name.encode()])
    accuracy = (found["accuracy"] + rng.normal(0, spread_pp)) / 100
    content = record(spec, round(accuracy, 4))
    stop = {"early_stop_iteration": round(found["stop"] * rng.normal(1, spread_of_stop) / 100) * 100}
    return {**content, "result": {**content["result"], **stop}}


def lenet_run(
    storage: Path, arm: Arm = as_published, seeds: int = 8, margins: Mapping[str, float] = MARGINS, **changes: Any
) -> Path:
    """The run in a store; `margins`: of the claims that its plan has. Returns its folder."""
    specs = trials_of(seeds)
    published = [claim.as_json() for claim in claims_of("here", margins)]
    content = plan(specs, margin_pp=0.2, alpha=0.025, **({"published": published} if published else {}), **changes)
    Store(storage).write("run/plan.json", to_json(content))
    for spec in specs:
        seal(storage, spec, lenet_record(spec, arm))
    return storage / "run"
