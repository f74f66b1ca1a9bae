"""The wheel has every package, template and loader; an editable install would hide one that is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.command import ROOT

SOURCE = ("pyproject.toml", "README.md", "LICENSE", "lth_trainable", "sweeps", "analysis")
SMALL = ["--epochs", "2", "--sparsity", "40", "--rewind-epoch", "0", "--seeds", "2"]


def ran(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, without this tree on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=cwd, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Interpreter of a new environment: the wheel is installed in it, its dependencies are those of this interpreter.

    Nothing is downloaded. The wheel is built from a copy, since a build writes into the tree.
    """
    source, venv, pip = tmp_path / "source", tmp_path / "venv", [sys.executable, "-m", "pip", "--quiet"]
    source.mkdir()
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    ran(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    ran(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    ran(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    site = Path(ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.slow
def test_an_installed_wheel_sweeps_reports_exports_and_packs_in_an_empty_folder(python: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for package in ("lth_trainable", "sweeps", "analysis"):
        assert str(tmp_path / "venv") in ran(python, "-c", f"import {package}; print({package}.__file__)", cwd=here)
    out = ran(python, "-m", "sweeps.lth_grid", "digits", *SMALL, "--json", cwd=here)
    summary = json.loads(out.strip().splitlines()[-1])
    assert (summary["planned"], summary["done"], summary["failed"]) == (4, 4, 0)
    assert {row["claim"] for row in summary["verdicts"]} >= {"matches", "beats"}
    run = here / "runs" / "digits"
    assert "<svg" in (run / "report.html").read_text()
    ran(python, "-m", "analysis", run, cwd=here)
    ticket = next(run.glob("trials/*-imp-*"))
    ran(python, "-m", "analysis", "export", ticket, "--out", "tickets", cwd=here)
    assert list(here.glob("tickets/**/load_ticket.py"))
    ran(python, "-m", "analysis", "pack", run, cwd=here)
    assert (here / "digits.tar.gz").exists()
