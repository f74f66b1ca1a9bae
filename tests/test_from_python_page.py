"""Every block of docs/from_python.md runs as it stands. Their trials are trained beforehand, so Ray need not start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lth_trainable import Store, TrialSpec, run_trial
from sweeps import Sweep

PAGE = Path(__file__).parents[1] / "docs" / "from_python.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_blocks_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sweeps.cli.job.launch", lambda *_, **__: pytest.fail("Ray would start"))
    for pct in (40, 64):
        for seed in range(5):
            for more in ({"schedule": "imp"}, {"control": "reinit"}, {"schedule": "omp"}, {"control": "dense"}):
                fields: dict[str, Any] = {"target_sparsity_pct": pct, "epochs": 3, "seed": seed, **more}
                run_trial(TrialSpec(**fields), Store("runs"), "before")
    names: dict[str, Any] = {"__name__": "page"}
    found = []
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
        if "run" in names and names["run"] not in found:
            found.append(names["run"])
    assert [Path(run.folder).name for run in found] == ["digits", "mine", "one_shot", "alone"]
    assert [len(run.trials()) for run in found] == [25, 15, 10, 10] and all(run.ok for run in found)
    assert all(run.verdicts().n_pairs.max() == 5 for run in found)
    assert isinstance(names["sweep"], Sweep)
