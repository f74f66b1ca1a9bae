"""A small run whose tickets are rewound to all kinds of points, for the tests of barriers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.barriers.copies import BarrierJob
from analysis.barriers.jobs import Settings
from analysis.barriers.stored import BETWEEN_COPIES, given_by
from analysis.barriers.targets import choose
from analysis.tables.run_plan import find_run, read_plan
from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store, to_json
from lth_trainable.training.instability import Start
from lth_trainable.training.run import run_trial
from tests.support.records import plan

BASE: dict[str, Any] = {
    "model": "tests.plugins:tiny_cnn", "batch_size": 230, "epochs": 3, "augment": "flip_shift", "lr": 0.02,
    "lr_policy": "one_cycle", "target_sparsity_pct": 64.0,
}  # fmt: skip
STEPS = 5  # in an epoch of 1,150 images
TICKETS = {
    "0": TrialSpec(**BASE, rewind_epoch=0), "1": TrialSpec(**BASE, rewind_epoch=1),
    "7it": TrialSpec(**BASE, rewind_epoch="7it"),  # type: ignore[arg-type]
    "fresh": TrialSpec(**BASE, rewind_epoch=1, rewind_optimizer="fresh"),
}  # fmt: skip
DENSE = TrialSpec(**BASE, control="dense")
OTHERS = {
    "supermask": TrialSpec(**BASE, reset_end=True), "fit": TrialSpec(**BASE, schedule="one_shot"),
    "lr_rewinding": TrialSpec(**BASE, retrain="lr_rewinding"), "missing": TrialSpec(**BASE, rewind_epoch=0, seed=1),
}  # fmt: skip
CONTROLS = {name: TrialSpec(**BASE, rewind_epoch=1, control=name) for name in ("random_mask", "reinit")}
SPECS = [DENSE, *TICKETS.values(), *CONTROLS.values(), *OTHERS.values()]


def train_run(storage: Path) -> Path:
    """Train a run with BatchNorm and dropout, except three of its trials; returns its folder."""
    for spec in SPECS:
        if spec not in (OTHERS["missing"], OTHERS["lr_rewinding"], OTHERS["fit"]):
            run_trial(spec, Store(storage), "run")
    return write_plan(storage)


def write_plan(storage: Path) -> Path:
    digest = load_dataset("digits").digest
    trials = [{"name": s.name, "key": s.key(digest), "spec": s.canonical()} for s in SPECS]
    Store(storage).write("run/plan.json", to_json(plan(SPECS, trials=trials)))
    return storage / "run"


def start_of(run: Path, which: str, dense: bool = False) -> Start:
    """The starting point of a ticket or control, or of the dense network beside it."""
    return job_of(run, which, dense).start


def job_of(run: Path, which: str, dense: bool = False) -> BarrierJob:
    """What measures the lines between copies of a ticket or control, or of the dense network beside it."""
    store, name = find_run(run)
    plan = read_plan(store, name)
    found = choose(store, name, plan, [(TICKETS | CONTROLS)[which].name], 1)
    (target,) = [target for target in found.targets if target.is_dense == dense]
    return BarrierJob(store, target, Settings(), given_by(name, plan, BETWEEN_COPIES))
