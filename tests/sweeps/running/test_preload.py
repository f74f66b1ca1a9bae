"""What workers import before a trial needs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.running import preload

SHOW = f"""
import gc, importlib, json, os, sys
preload = importlib.import_module("{preload.NAME}")
print(json.dumps({{
    "path": os.environ.get("PYTHONPATH"), "found": [folder for folder in sys.path if "{preload.FOLDER}" in folder],
    "missing": [name for name in preload.PACKAGES if name not in sys.modules], "gc": gc.isenabled(),
    "own": [name for name in sys.modules if name.split(".")[0] in ("sweeps", "lth_trainable", "analysis")],
}}))
"""


@pytest.mark.parametrize("before", [None, "/some/where"])
def test_a_new_process_imports_packages_and_nothing_of_this_project(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command may have its code from elsewhere than a new process would."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if before is not None:
        monkeypatch.setenv("PYTHONPATH", before)
    monkeypatch.setattr(preload, "__file__", _with_packages(tmp_path, "json.tool", "xml.dom"))
    environment = {**os.environ, **preload.preloading(tmp_path)}
    found = _run(environment)
    assert found == {"path": before, "found": [], "missing": [], "gc": True, "own": []}


def test_a_package_that_fails_is_left_to_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preload, "__file__", _with_packages(tmp_path, "no_such_package"))
    found = _run({**os.environ, **preload.preloading(tmp_path)})
    assert found["missing"] == ["no_such_package"] and found["gc"]


def test_all_packages_are_there() -> None:
    """In this process, which has most of them: a misspelt name would cost seconds at each start."""
    for name in preload.PACKAGES:
        assert __import__(name)


def _with_packages(folder: Path, *names: str) -> str:
    source = Path(preload.__file__).read_text()
    begin, end = source.index("PACKAGES = ("), source.index(")  # fmt: skip") + 1
    file = folder / "source.py"
    file.write_text(f"{source[:begin]}PACKAGES = {names!r}{source[end:]}")
    return str(file)


def _run(environment: dict[str, str]) -> dict[str, object]:
    out = subprocess.run([sys.executable, "-c", SHOW], env=environment, stdout=subprocess.PIPE, check=True).stdout
    found: dict[str, object] = json.loads(out)
    return found
