"""The documentation site: the navigation has every page, the reference every public name, notebooks their outputs."""

from __future__ import annotations

import getpass
import importlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.command import ROOT

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
HOOK = (ROOT / "tools" / "site_pages.py").read_text()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Objects, which the page names in a sentence.
READY_MADE = {"one_shot", "iterative", "agp", "one_cycle", "cos", "lin", "dsd"}
MACHINE = re.compile(rf"{re.escape(str(ROOT))}\b|/tmp/|/home/|/root/|/Users/|site-packages|0x[0-9a-f]{8}")
KILOBYTES = 500


def places(nav: Any) -> list[str]:
    """The pages that a part of the navigation names."""
    if isinstance(nav, str):
        return [nav]
    return [place for item in (nav.values() if isinstance(nav, dict) else nav) for place in places(item)]


def test_the_navigation_names_every_page_once() -> None:
    docs = ROOT / SITE["docs_dir"]
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    made = {f"notebooks/{path.stem}.md" for path in NOTEBOOKS} | {"changelog.md", "contributing.md", "benchmarks.md"}
    named = places(SITE["nav"])
    assert len(named) == len(set(named)) and set(named) == pages | made
    assert all(f"notebooks/{path.name}" in HOOK for path in NOTEBOOKS)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.stem)
def test_every_anchor_that_a_page_links_to_is_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", page.read_text()):
        assert anchor in anchors((page.parent / target if target else page).read_text()), f"{target}#{anchor}"


def anchors(text: str) -> set[str]:
    """The addresses of a page's headings, as MkDocs and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_the_site_loads_nothing_from_elsewhere() -> None:
    assert SITE["theme"]["font"] is False
    assert not [name for key in ("extra_css", "extra_javascript") for name in SITE.get(key, []) if "//" in name]


@pytest.mark.parametrize("package", ["lth_trainable", "sweeps", "analysis"])
def test_the_reference_has_every_public_name_from_where_it_is_defined(package: str) -> None:
    page = (ROOT / "docs" / "reference" / f"{package}.md").read_text()
    entries = re.findall(r"^::: (\S+)$", page, re.M)
    public = importlib.import_module(package)
    missing = set(public.__all__) - {entry.rpartition(".")[2] for entry in entries}
    assert missing == {name for name in READY_MADE if f"`{name}`" in page and package == "lth_trainable"}
    for entry in entries:
        home, _, name = entry.rpartition(".")
        thing = getattr(importlib.import_module(home), name)
        assert thing.__module__ == home and thing.__doc__, entry
        assert getattr(public, name, thing) is thing, entry


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_as_it_ran_from_top_to_bottom(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_says_nothing_of_the_machine_that_ran_it(path: Path) -> None:
    text = path.read_text()
    pictures = re.compile(r'"image/png": "[^"]*"')
    assert MACHINE.findall(pictures.sub("", text)) == []
    user = getpass.getuser()
    assert user in ("root", "runner") or not re.search(rf"\b{re.escape(user)}\b", pictures.sub("", text))
    assert path.stat().st_size < KILOBYTES * 1000


@pytest.fixture
def mkdocs() -> str:
    """The program of `make docs`."""
    program = ROOT / ".venv-docs" / "bin" / "mkdocs"
    if not program.exists():
        pytest.skip("needs the environment that `make docs` makes")
    return str(program)


@pytest.mark.slow
def test_the_site_is_built_and_a_dead_link_or_anchor_is_not_let_through(mkdocs: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns(".*", "build", "runs", "tests", "__pycache__")
    shutil.copytree(ROOT, tree, ignore=ignored)
    built = subprocess.run([mkdocs, "build"], cwd=tree, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = [path.read_text() for path in (tree / "build" / "site").rglob("*.html")]
    elsewhere = re.compile(r'<(?:script|img|iframe)[^>]+src="?https?:|<link[^>]+href="?https?:')
    assert [page for page in pages if elsewhere.search(page)] == []
    reference = (tree / "build" / "site" / "reference" / "lth_trainable.html").read_text()
    assert "<li><code>prune_rate</code>" in reference and "<td><code>batch_size</code></td>" in reference
    for link in ("nowhere.md", "verdicts.md#nowhere", "../cluster.yaml"):
        (tree / "docs" / "faq.md").write_text(f"# Questions\n\n[a link]({link})\n")
        broken = subprocess.run([mkdocs, "build"], cwd=tree, capture_output=True, text=True)
        assert broken.returncode != 0 and link in broken.stderr, link
