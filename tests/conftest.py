"""What the tests share: small specs, one store a test, real data where a folder of it is given."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lth_trainable.store.store import Store

DATA_VARIABLE = "LTH_DATA"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """As trials by default: what a test trains beside a trial has its bytes, and processes share the cores."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gather without drawing the report, which follows from the tables and takes longer than they do."""
    monkeypatch.setattr("analysis.report.html.report_html", lambda *_: "")


@pytest.fixture(scope="session")
def data_archives() -> Path:
    """Folder of the real archives (`mnist_png.tgz`, ...), skipped with a reason where none is given."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        pytest.skip(f"no real data: set {DATA_VARIABLE} to the folder of the archives")
    return Path(folder)
