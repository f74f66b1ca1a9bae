"""The version comes from the source tree or the installed package; a package is known by all its files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lth_trainable
from lth_trainable.errors import UserError
from lth_trainable.training.execution import versions
from lth_trainable.versions import project_version, source_sha256


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with a subpackage, importable as `nested_package`."""
    folder = tmp_path / "nested_package"
    (folder / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/__init__.py", "inner/deep.py"):
        (folder / name).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


@pytest.mark.parametrize("edited", ["__init__.py", "inner/deep.py", "inner/new.py"])
def test_a_change_in_any_file_changes_the_digest(package: Path, edited: str) -> None:
    source_sha256.cache_clear()
    before = source_sha256(package.name)
    (package / edited).write_text("x = 1")
    source_sha256.cache_clear()
    assert source_sha256(package.name) != before


def test_the_source_of_this_package_is_all_its_files() -> None:
    root = Path(lth_trainable.__file__).parent
    sources = sorted((path.relative_to(root).as_posix(), path) for path in root.rglob("*.py"))
    assert "spec/trial_spec.py" in dict(sources) and "contracts/common.py" in dict(sources)
    content = b"".join(name.encode() + path.read_bytes() for name, path in sources)
    assert versions()["source"] == source_sha256("lth_trainable") == hashlib.sha256(content).hexdigest()


def test_the_version_is_that_of_the_source_tree(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "lottery-sweep"\nversion = "9.9.9"\n')
    assert project_version(project) == "9.9.9"


def test_without_a_tree_it_is_that_of_the_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "pyproject.toml"
    other.write_text('[project]\nname = "another-project"\nversion = "9.9.9"\n')
    monkeypatch.setattr("lth_trainable.versions.version", {"lottery-sweep": "1.2.3"}.__getitem__)
    assert project_version(other) == "1.2.3" == project_version(tmp_path / "nowhere.toml")


def test_with_neither_it_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lth_trainable.versions.DISTRIBUTION", "no-such-distribution")
    with pytest.raises(UserError, match=r"found neither .* nor an installed package"):
        project_version(tmp_path / "missing.toml")
