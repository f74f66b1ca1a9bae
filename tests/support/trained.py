"""A small run with a ticket and its dense network, really trained; it takes a second or two."""

from __future__ import annotations

from pathlib import Path

from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store, to_json
from lth_trainable.training.run import run_trial
from tests.support.records import plan

TICKET = TrialSpec(epochs=2, target_sparsity_pct=64.0, rewind_epoch=1)
DENSE = TrialSpec(epochs=2, control="dense")


def train_ticket_and_dense(storage: Path) -> Path:
    """The folder of the run."""
    specs = [DENSE, TICKET]
    for spec in specs:
        run_trial(spec, Store(storage), "run")
    digest = load_dataset("digits").digest
    trials = [{"name": s.name, "key": s.key(digest), "spec": s.canonical()} for s in specs]
    Store(storage).write("run/plan.json", to_json(plan(specs, trials=trials)))
    return storage / "run"
