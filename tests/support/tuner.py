"""A Tuner without Ray: it calls the trainable, catches its reports, and gives it checkpoints to go on from."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from ray import tune

import lth_trainable.tune.ticket as ticket_module
from lth_trainable.trainable import ticket_trainable

FIELDS: dict[str, Any] = {"epochs": 2, "rewind_epoch": 1, "prune_rate_pct": 40.0, "target_sparsity_pct": 64.0}


class Tuner:
    """What Tune is to a trial: takes its reports, and copies its checkpoints into a folder as Ray does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.reports, self.checkpoints = folder, [], []  # type: ignore[var-annotated]
        self.restores: tune.Checkpoint | None = None
        self.stops_after = math.inf

    def report(self, metrics: dict[str, Any], checkpoint: Any = None) -> None:
        self.reports.append(metrics)
        kept = None
        if checkpoint is not None:
            target = self.folder / f"checkpoint_{len(self.reports):06d}"
            shutil.copytree(checkpoint.path, target)
            kept = checkpoint.__class__(filesystem=checkpoint.filesystem, path=str(target))
        self.checkpoints.append(kept)
        if len(self.reports) >= self.stops_after:
            raise SystemExit(0)

    def fit(self, store: Path, restores: tune.Checkpoint | None = None, **config: Any) -> list[dict[str, Any]]:
        self.reports, self.checkpoints, self.restores = [], [], restores
        ticket_trainable({**FIELDS, "storage": str(store), "threads": 1, "device": "cpu", **config})
        return self.reports


def tuner_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tuner:
    """A Tuner whose trials have their folders in `tmp_path / "experiment"`, by their number."""
    counter = itertools.count()
    made = Tuner(tmp_path / "experiment")
    monkeypatch.setattr(tune, "report", made.report)
    monkeypatch.setattr(tune, "get_checkpoint", lambda: made.restores)
    monkeypatch.setattr(ticket_module, "reserved", lambda: (1.0, 0.0))
    fit = made.fit

    def each_in_its_folder(*args: Any, **config: Any) -> Any:
        made.folder = tmp_path / "experiment" / str(next(counter))
        made.folder.mkdir(parents=True)
        return fit(*args, **config)

    monkeypatch.setattr(made, "fit", each_in_its_folder)
    return made
