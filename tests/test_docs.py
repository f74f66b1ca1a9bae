"""The pages for people name only what exists: files, folders, modules, links; and the README leads to every page."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from lth_trainable.check import command
from tests.support.pages import blocks

ROOT = Path(__file__).parents[1]
PACKAGES = ("lth_trainable", "sweeps", "analysis", "tests", "benchmarks")
# The log tells what was done under the names of its day, and the change log says what moved from where.
HISTORY = ("docs/log.md", "CHANGELOG.md")
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "notebooks/*.ipynb", "benchmarks/*.md", "cluster.yaml")
    for path in ROOT.glob(pattern)
    if str(path.relative_to(ROOT)) not in HISTORY
)
_FILE = re.compile(r"(?<![\w/.:{}*<>-])((?:[\w.-]+/)+[\w.-]+\.(?:py|md|ipynb|toml|yaml|json|jinja|svg)|\w+\.py)\b")
_FOLDER = re.compile(rf"(?<![\w/.:-])((?:{'|'.join(PACKAGES)}|docs|notebooks)/(?:\w+/)*)(?![\w.*<{{])")
_MODULE = re.compile(rf"(?<![\w./-])((?:{'|'.join(PACKAGES[:4])})(?:\.\w+)+)(?![\w/])")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
# Files that a run or a user makes, by their first folder or their whole name.
_MADE = ("runs/", "RUN/", "DIR/", "states/", "my_", "dense/", "model.py")
_PLACEHOLDERS = ("NNNN", "NAME")
_NAMES = {path.name for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def is_made(name: str) -> bool:
    return name.startswith(_MADE) or any(word in name for word in _PLACEHOLDERS)


def is_there(name: str, folder: Path) -> bool:
    """Whether a page in `folder` may name this file: from the root, from itself, or a module by its own name."""
    return (ROOT / name).exists() or (folder / name).exists() or name in _NAMES


def is_module(name: str) -> bool:
    """Whether `name` is a module, or something that a module defines."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.util.find_spec(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        if found is not None:
            return _defines(".".join(parts[:length]), parts[length:])
    return False


def _defines(module: str, rest: list[str]) -> bool:
    thing: object = importlib.import_module(module) if rest else None
    for name in rest:
        if not hasattr(thing, name):
            return False
        thing = getattr(thing, name)
    return True


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page: str) -> None:
    text = text_of(page)
    missing = {name for name in _FILE.findall(text) if not is_made(name) and not is_there(name, (ROOT / page).parent)}
    missing |= {name for name in _FOLDER.findall(text) if not (ROOT / name).is_dir()}
    assert missing == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_names_exists(page: str) -> None:
    names = {name for name in _MODULE.findall(text_of(page)) if not name.endswith(".py") and not is_made(name)}
    assert {name for name in names if not is_module(name)} == set()


@pytest.mark.parametrize("page", [page for page in (*PAGES, *HISTORY) if page.endswith(".md")])
def test_every_relative_link_of_a_page_leads_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    assert [link for link in _LINK.findall(text_of(page)) if not (folder / link).exists()] == []


def test_the_readme_links_to_every_page() -> None:
    links = {(ROOT / link).resolve() for link in _LINK.findall(text_of("README.md"))}
    pages = {ROOT / page for page in (*PAGES, *HISTORY) if page.endswith((".md", ".ipynb"))} - {ROOT / "README.md"}
    assert pages - links == set()


def test_the_readmes_own_parts_keep_the_contracts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (parts,) = (block.text for block in blocks("README.md", "python") if "def odd_digits" in block.text)
    (tmp_path / "my_parts.py").write_text(parts)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in re.findall(r"^def (\w+)", parts, re.MULTILINE):
        assert command([f"my_parts:{name}"]) == 0, capsys.readouterr().out
