"""The commands under short names, such as `lth-grid` for `python -m sweeps.lth_grid`: a shell can complete their flags.

`[project.scripts]` in pyproject.toml names these functions. Each runs the module as `python -m` does.
"""

from __future__ import annotations

from runpy import run_module


def grid() -> None:
    """`lth-grid`."""
    _run("sweeps.lth_grid")


def search() -> None:
    """`lth-search`."""
    _run("sweeps.lth_search")


def _run(module: str) -> None:
    run_module(module, run_name="__main__")
