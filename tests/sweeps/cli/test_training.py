"""What the results are gathered with is imported while workers train."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from sweeps.cli import training
from sweeps.running.resources import Spent


def end_of_imports() -> None:
    for thread in threading.enumerate():
        if thread.name == "imports":
            thread.join()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    Path(tmp_path, "for_results_of_a_test.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(training, "FOR_RESULTS", ("for_results_of_a_test",))
    monkeypatch.delitem(sys.modules, "for_results_of_a_test", raising=False)
    return "for_results_of_a_test"


def test_nothing_is_imported_before_a_worker_trains(module: str) -> None:
    spent = Spent()
    spent.report("t1", 0)
    with training._imports_meanwhile(spent):
        pass
    end_of_imports()
    assert module not in sys.modules


def test_it_is_imported_once_an_epoch_is_trained(module: str) -> None:
    spent = Spent()
    with training._imports_meanwhile(spent):
        spent.report("t1", 1)
        end_of_imports()
        assert module in sys.modules
