"""A run that the tests of figures and reports look at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import analysis
from tests.support.records import DIGITS, digits_like, make_run


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the recipe digits in which one trial failed, one diverged and one is missing."""
    failed, diverged, missing = (digits_like()[i] for i in (6, 12, 18))

    def accuracy(spec: object) -> float | None:
        return None if spec == diverged else DIGITS(spec)  # type: ignore[arg-type]

    run = make_run(tmp_path_factory.mktemp("runs"), digits_like(), accuracy, skip=[failed.name, missing.name])
    folder = run / "trials" / failed.name
    folder.mkdir(parents=True)
    (folder / "failure.json").write_text(json.dumps({"reason": "<script>alert('no')</script>", "traceback": ""}))
    analysis.gather(run)
    return run
