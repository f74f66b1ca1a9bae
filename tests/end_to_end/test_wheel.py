"""`pip install .` installs every package, template and loader; an editable install would hide one that is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.support.command import ROOT

SOURCE = ("pyproject.toml", "README.md", "LICENSE", "lth_trainable", "sweeps", "analysis")
PIP = (sys.executable, "-m", "pip", "--quiet")
OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index")
SMALL = ["--controls", "none", "--epochs", "2", "--sparsity", "40", "--rewind-epoch", "0", "--seeds", "2"]


def ran(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Standard output of a command that must succeed, without this tree on its path. variables: of its environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=cwd, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the project, since a build writes into the tree."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def python(source: Path, tmp_path: Path) -> Path:
    """Interpreter of a new environment after `pip install .`; its dependencies are those of this interpreter.

    Nothing is downloaded.
    """
    venv = tmp_path / "venv"
    ran(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    site = Path(ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    ran(*PIP, "--python", python, "install", *OFFLINE, ".", cwd=source)
    return python


def test_the_wheel_has_every_file_of_the_packages_and_runs_where_nothing_else_is(source: Path, tmp_path: Path) -> None:
    ran(*PIP, "wheel", *OFFLINE, "--wheel-dir", tmp_path, source, cwd=tmp_path)
    (path,) = tmp_path.glob("*.whl")
    unpacked, empty = tmp_path / "unpacked", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(path) as wheel:
        packed = {name for name in wheel.namelist() if not name.partition("/")[0].endswith(".dist-info")}
        wheel.extractall(unpacked)
    assert packed == {
        str(path.relative_to(source))
        for package in ("lth_trainable", "sweeps", "analysis")
        for path in (source / package).rglob("*")
        if path.is_file()
    }
    listed = ran(sys.executable, "-m", "sweeps.lth_grid", "--list", "--json", cwd=empty, PYTHONPATH=str(unpacked))
    assert "digits" in json.loads(listed)


@pytest.mark.slow
def test_a_plain_installation_sweeps_reports_exports_and_packs_in_an_empty_folder(python: Path, tmp_path: Path) -> None:
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
