"""Every block of code in the pages runs as it stands, or another test that is named here runs it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sweeps.cli import options
from sweeps.experiments.expand import expand
from tests.support.pages import PAGES, blocks, text_of
from tests.support.parsers import main_of
from tests.support.reader import TICKET, at_work, with_runs

# Pages whose blocks another test runs, because they belong to what that test prepares.
ELSEWHERE = {
    "docs/callback.md": "tests/end_to_end/test_notebooks.py",
    "docs/clusters.md": "tests/end_to_end/test_cluster.py",
    "docs/from_fasterai.md": "tests/lth_trainable/pruning/test_from_fasterai.py",
    "docs/from_python.md": "tests/test_from_python_page.py",
    "docs/ray_tune.md": "tests/lth_trainable/tune/test_with_ray.py",
    "docs/search.md": "tests/sweeps/test_search_from_python.py",
    "docs/your_own.md": "tests/test_your_own.py",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_runs(tmp_path_factory.mktemp("reader"))


@pytest.fixture
def reader(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with at_work(prepared, monkeypatch) as folder:
        yield folder


def run_blocks(page: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run the Python of a page, block after block in one namespace, as a reader would; returns the namespace."""
    for block in blocks(page, "python"):
        exec(compile(block.text, block.name, "exec"), names)
    return names


def test_every_block_belongs_to_a_test() -> None:
    mine = {"README.md", "docs/command-line.md", "docs/tables.md", "docs/tickets.md", "results/README.md"}
    for page in PAGES:
        found = blocks(page)
        assert all(block.language in ("python", "yaml", "bash") for block in found), page
        assert not found or page in mine or page in ELSEWHERE, f"{page}: which test runs its blocks?"
    for page, test in ELSEWHERE.items():
        assert Path(page).name in text_of(test), f"{test} does not read {page}"


def test_the_python_of_the_readme(reader: Path) -> None:
    names = run_blocks("README.md", {"__name__": "my_parts"})
    assert len(names["frames"].trials) == 4 and isinstance(names["two_layers"]((1, 8, 8), 2), torch.nn.Module)
    assert names["odd_digits"](None, 0).classes == ("even", "odd")
    assert names["callback"].pruner.sparsity_pct == 50.0 and (reader / "ticket.safetensors").exists()


def test_the_python_of_the_page_on_tables(reader: Path) -> None:
    names = run_blocks("docs/tables.md", {})
    assert set(names["frames"].trials["run"]) == {"digits", "other"}


def test_the_python_of_the_page_on_results(reader: Path) -> None:
    assert len(run_blocks("results/README.md", {})["frames"].trials) == 104


def test_the_python_of_the_page_on_tickets(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main_of("analysis")(["export", f"runs/digits/trials/{TICKET.name}", "--out", "exported"]) == 0
    monkeypatch.chdir(reader / "exported" / TICKET.name)
    monkeypatch.syspath_prepend(str(reader / "exported" / TICKET.name))
    names = run_blocks("docs/tickets.md", {})
    kept = np.concatenate([mask.numpy().ravel() for mask in names["kept"].values()])
    assert abs(100 * (1 - kept.mean()) - 64) < 0.1 and names["about"]["trial"] == TICKET.name


def test_the_recipes_of_the_page_on_the_command_line(reader: Path) -> None:
    for words, trials in ((["my_sweep.yaml"], 10 * (6 + 6 + 1)), (["my_sweep:odd_or_even"], 5 * (4 + 1))):
        _, recipe = options.parse(words)
        assert len(expand(recipe).trials) == trials


def test_the_shell_script_for_slurm_is_one() -> None:
    for block in (block for page in PAGES for block in blocks(page, "bash")):
        done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{block.name}: {done.stderr}"
