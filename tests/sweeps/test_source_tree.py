"""The commands run from a source tree that is not installed, as after `git clone`, if their dependencies are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lth_trainable.versions import DISTRIBUTION
from tests.support.command import ROOT

COMMANDS = [
    "sweeps.lth_grid", "sweeps.lth_search", "sweeps.status", "sweeps.storage", "sweeps.verify", "sweeps.recipe",
    "analysis", "lth_trainable.check",
]  # fmt: skip
# Python runs this when it starts; it hides the installed package, whether it is a copy or a link
HIDE = f"""
import importlib.metadata, sys

ours = {DISTRIBUTION.replace("-", "_")!r}
sys.meta_path[:] = [finder for finder in sys.meta_path if ours not in getattr(finder, "__module__", "")]
from_name = importlib.metadata.Distribution.from_name.__func__


def hiding(cls, name):
    if name == {DISTRIBUTION!r}:
        raise importlib.metadata.PackageNotFoundError(name)
    return from_name(cls, name)


importlib.metadata.Distribution.from_name = classmethod(hiding)
"""
HELP = """
import contextlib, io, runpy, sys

for command in tuple(sys.argv[1:]):
    sys.argv[1:] = ["--help"]
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told):
            runpy.run_module(command, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert end.code in (0, None), (command, end.code)
    assert "usage:" in told.getvalue().lower(), (command, told.getvalue())
    print(command)
"""


class Tree:
    """A copy of the source tree, and Python processes that see no other copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tree"
        self.environment = {**os.environ, "PYTHONPATH": str(folder / "hide")}
        (folder / "hide").mkdir()
        (folder / "hide" / "sitecustomize.py").write_text(HIDE)
        for package in ("lth_trainable", "sweeps", "analysis"):
            shutil.copytree(ROOT / package, self.folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", self.folder)

    def python(self, *arguments: str) -> str:
        """Standard output of `python ARGUMENTS`, which must exit with code 0."""
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_every_command_has_help_and_the_plan_is_shown(tree: Tree, tmp_path: Path) -> None:
    assert tree.python("-c", "import sweeps; print(sweeps.__file__)").startswith(str(tree.folder))
    assert tree.python("-c", HELP, *COMMANDS).split() == COMMANDS
    storage = str(tmp_path / "runs")
    assert "64 %" in tree.python("-m", "sweeps.lth_grid", "digits", "--seeds", "1", "--dry-run", "--storage", storage)
    assert "digits" in tree.python("-m", "sweeps.recipe", "show", "digits")


@pytest.mark.slow
def test_a_sweep_is_trained_read_and_repeated(tree: Tree, tmp_path: Path) -> None:
    storage, run = str(tmp_path / "runs"), str(tmp_path / "runs" / "digits")
    axes = ("--epochs", "1", "--sparsity", "40", "--rewind-epoch", "0", "--seeds", "1", "--controls", "none")
    tree.python("-m", "sweeps.lth_grid", "digits", *axes, "--storage", storage)
    assert "2 done" in tree.python("-m", "sweeps.status", run)
    assert "digits" in tree.python("-m", "sweeps.storage", "du", storage)
    assert "1 of 1 trials are identical" in tree.python("-m", "sweeps.verify", run, "--trials", "1")
    assert "report" in tree.python("-m", "analysis", run)
