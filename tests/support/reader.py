"""The folder of somebody who reads the documentation and types what stands there."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import analysis
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from tests.support.command import ROOT
from tests.support.pages import blocks
from tests.support.runs import sweep

TICKET, SECOND = (TrialSpec(target_sparsity_pct=64.0, rewind_epoch=0, seed=seed) for seed in (0, 1))


def with_runs(folder: Path) -> Path:
    """Fill the folder with runs of two seeds, really trained and gathered, and with a reader's own files."""
    store = Store(folder / "runs")
    for run, rewind in (("digits", 0), ("other", 1)):
        specs = [TrialSpec(target_sparsity_pct=64.0, rewind_epoch=rewind, seed=seed) for seed in (0, 1)]
        sweep(store, run, [*specs, *(TrialSpec(control="dense", seed=seed) for seed in (0, 1))])
        analysis.gather(folder / "runs" / run)
    for piece, seed in (("one", 0), ("two", 1)):
        specs = [
            TrialSpec(target_sparsity_pct=64.0, epochs=1, seed=seed),
            TrialSpec(control="dense", epochs=1, seed=seed),
        ]
        sweep(Store(folder / "pieces" / piece), "digits", specs)
    os.symlink("other", folder / "runs" / "digits_tutorial")
    shutil.copytree(ROOT / "results" / "digits", folder / "results" / "digits")
    return with_files(folder)


def with_files(folder: Path) -> Path:
    """Fill the folder with the files that the pages ask a reader to write."""
    (folder / "my_parts.py").write_text(blocks("README.md", "python")[1].text)
    (folder / "my_module.py").write_text("def keep_sum(w):\n    return w.now.abs() + w.initial.abs()\n")
    (folder / "my_sweep.yaml").write_text(blocks("docs/command-line.md", "yaml")[0].text)
    (folder / "my_sweep.py").write_text(blocks("docs/command-line.md", "python")[0].text)
    return folder


@contextlib.contextmanager
def at_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder as the present one, from which modules are imported."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    yield folder
    for name in ("my_parts", "my_module", "my_sweep", "load_ticket"):
        sys.modules.pop(name, None)
