"""Trials of every kind that are killed after some epochs, and the files of the states that they leave."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.segments import segments
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.states import TEMPORARY
from lth_trainable.store.store import HISTORY, MANIFEST, STATES, Store, fingerprint_id
from lth_trainable.training.execution import Execution, fingerprint
from lth_trainable.training.run import run_trial

CNN: dict[str, Any] = {"model": "tests.plugins:tiny_cnn", "batch_size": 230, "augment": "flip_shift"}
SPECS: dict[str, dict[str, Any]] = {
    "dense": {"control": "dense", "epochs": 5, **CNN},
    "imp": {"target_sparsity_pct": 64, "epochs": 3, "rewind_epoch": 1, "lr_policy": "one_cycle", **CNN},
    "imp to an iteration": {"target_sparsity_pct": 64, "epochs": 3, "rewind_epoch": "7it", **CNN},
    "imp, validated often": {
        "target_sparsity_pct": 64, "epochs": 3, "rewind_epoch": "7it", "validate_every": 2, "lr": 0.05, **CNN,
    },
    "imp, fresh optimiser": {"target_sparsity_pct": 64, "epochs": 3, "rewind_optimizer": "fresh", **CNN},
    "imp, global movement": {
        "target_sparsity_pct": 64, "epochs": 3, "context": "global", "criterion": "updating_movement", **CNN,
    },
    "lr_rewinding": {"target_sparsity_pct": 64, "epochs": 3, "retrain": "lr_rewinding", "lr_policy": "cosine", **CNN},
    "fine_tuning": {"target_sparsity_pct": 64, "epochs": 3, "retrain": "fine_tuning", "optimizer": "sgd", **CNN},
    "omp": {"schedule": "omp", "target_sparsity_pct": 70, "epochs": 3, "rewind_epoch": 1, "reset_end": True, **CNN},
    "iterative": {"schedule": "iterative", "target_sparsity_pct": 70, "epochs": 8, "rewind_epoch": 1, **CNN},
    "one_shot": {"schedule": "one_shot", "target_sparsity_pct": 70, "epochs": 4, "reset_end": True, **CNN},
    "agp": {"schedule": "agp", "target_sparsity_pct": 70, "epochs": 8, "criterion": "updating_movement", **CNN},
    "dsd": {"schedule": "dsd", "target_sparsity_pct": 70, "epochs": 8, **CNN},
    "random_mask": {
        "control": "random_mask", "target_sparsity_pct": 64, "epochs": 3, "rewind_epoch": 1, "lr_policy": "one_cycle",
        **CNN,
    },
    "reinit of a ticket at an iteration": {
        "control": "reinit", "target_sparsity_pct": 64, "epochs": 3, "rewind_epoch": "7it", **CNN,
    },
    "iterative, layerwise_shuffle": {
        "control": "layerwise_shuffle", "schedule": "iterative", "target_sparsity_pct": 70, "epochs": 8,
        "rewind_epoch": 1, **CNN,
    },
    "one_shot, sign_shuffle": {
        "control": "sign_shuffle", "schedule": "one_shot", "target_sparsity_pct": 70, "epochs": 4, "reset_end": True,
        **CNN,
    },
    "dense_restarts": {
        "control": "dense_restarts", "target_sparsity_pct": 64, "epochs": 3, "retrain": "lr_rewinding", **CNN,
    },
}  # fmt: skip
TICKET = SPECS["imp"]


class Killed(Exception):
    """Stands for whatever ends a process."""


@functools.cache
def uninterrupted(name: str, root: str) -> dict[str, Any]:
    return run_trial(TrialSpec(**SPECS[name]), Store(f"{root}-{name.replace(' ', '_')}"))


def dies_after(n_epochs: int) -> Callable[[list[dict[str, Any]]], None]:
    """Raises when it is told of the epoch after `n_epochs`, before the state of that epoch is stored."""
    seen: list[int] = []

    def on_epoch(rows: list[dict[str, Any]]) -> None:
        seen.append(rows[-1]["epoch"])
        if len(seen) > n_epochs:
            raise Killed("killed")

    return on_epoch


def kill(spec: TrialSpec, store: Store, n_epochs: int, **more: Any) -> None:
    with pytest.raises(Killed):
        run_trial(spec, store, "r", on_epoch=dies_after(n_epochs), **more)


def folders(store: Store, key: str) -> list[Path]:
    return sorted(Path(store.root, STATES, key).glob("*"))


def temporary(store: Store) -> list[Path]:
    return sorted(Path(store.root, STATES).glob(f"{'?' * 64}/*{TEMPORARY}*"))


def chain_of(spec: TrialSpec, steps: int = 5) -> Any:
    return segments(spec, load_dataset("digits").digest, steps)


def state_of(store: Store, key: str) -> Path:
    [folder] = folders(store, key)
    return folder


def history_of(store: Store, key: str) -> Any:
    return json.loads(file_of(state_of(store, key), HISTORY).read_text())


def file_of(folder: Path, name: str) -> Path:
    return folder / json.loads((folder / MANIFEST).read_text())["files"][name]["file"]


def mark_of(**execution: Any) -> str:
    return fingerprint_id(fingerprint(Execution(**execution)))
