"""A module of an installed package is not the user's own, wherever it was installed, and no lookup ends a command."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.own_code import code
from lth_trainable.own_code.places import is_own_file
from lth_trainable.registry import code_digest, not_covered

OWN = "ownplug"  # begins the names of all modules here
USES = f"def f(shape, n_classes):\n    import {OWN}_lib.deep\n    return {OWN}_lib.deep\n"
LIBRARY = {
    f"{OWN}_lib/__init__.py": "exec('A = 1')",
    f"{OWN}_lib/deep.py": f"import {OWN}_single",
    f"{OWN}_single.py": "",
}


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the user's own code, on the path."""
    folder = tmp_path / "own"
    write(folder, {f"{OWN}.py": USES})
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for known in (sys.modules, code._sources, code._codes):
        for name in [name for name in known if name.startswith(OWN)]:
            del known[name]
    importlib.invalidate_caches()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def of_distribution(files: dict[str, str], how: str) -> dict[str, str]:
    """The files of a package, and the list that an installer writes beside them."""
    listed = "".join(f"{name},sha256=x,1\n" for name in files)
    names = f"{OWN}_lib\n{OWN}_single\n"
    info, egg = "x-1.dist-info", "x.egg-info"
    lists = {
        "dist-info": {f"{info}/METADATA": "Name: x\nVersion: 1\n", f"{info}/RECORD": listed},
        "no list": {f"{info}/METADATA": "", f"{info}/INSTALLER": "dpkg", f"{info}/top_level.txt": names},
        "egg-info": {f"{egg}/PKG-INFO": "", f"{egg}/installed-files.txt": "".join(f"../{name}\n" for name in files)},
    }
    return {**files, **lists[how]}


def sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("how", ["dist-info", "no list", "egg-info"])
def test_a_package_in_any_folder_is_not_the_users_own(
    how: str, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "target", of_distribution(LIBRARY, how))
    monkeypatch.syspath_prepend(str(tmp_path / "target"))
    assert code_digest(f"{OWN}:f") == sha(own / f"{OWN}.py")
    assert not not_covered("model", f"{OWN}:f")


def test_also_beside_the_users_own_modules_and_through_a_link(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install --target .` in the folder of the project; what is not in the list stays the user's own."""
    write(own, of_distribution(LIBRARY, "dist-info"))
    (tmp_path / "link").symlink_to(own)
    monkeypatch.syspath_prepend(str(tmp_path / "link"))
    assert code_digest(f"{OWN}:f") == sha(own / f"{OWN}.py")
    for folder in (own, tmp_path / "link"):
        assert not is_own_file(str(folder / f"{OWN}_lib" / "deep.py"))
        assert is_own_file(str(folder / f"{OWN}.py"))


def test_also_in_an_archive(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "packages.zip", "w") as archive:
        for name, text in of_distribution(LIBRARY, "dist-info").items():
            archive.writestr(name, text)
    monkeypatch.syspath_prepend(str(tmp_path / "packages.zip"))
    assert code_digest(f"{OWN}:f") == sha(own / f"{OWN}.py")
    assert not not_covered("model", f"{OWN}:f")


def test_what_pip_puts_into_a_folder_is_not_the_users_own(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pip")
    wheel = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in of_distribution(LIBRARY, "dist-info").items():
            archive.writestr(name, text if "RECORD" not in name else text.replace("sha256=x,1", ","))
        archive.writestr("x-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    target = tmp_path / "target"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.syspath_prepend(str(target))
    assert code_digest(f"{OWN}:f") == sha(own / f"{OWN}.py")


@pytest.mark.parametrize("how", ["in its source folder", "in another folder"])
def test_an_editable_package_stays_the_users_own(
    how: str, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its list names only what was installed: the pointer to the source. The source has an egg-info of its own."""
    source, info = tmp_path / "source", tmp_path / ("source" if how == "in its source folder" else "target")
    egg = {"x.egg-info/PKG-INFO": "", "x.egg-info/SOURCES.txt": f"{OWN}_lib/deep.py\n"}
    write(source, {**LIBRARY, **egg, "x.egg-info/top_level.txt": f"{OWN}_lib\n"})
    pointer = {"x-1.dist-info/METADATA": "", "x-1.dist-info/INSTALLER": "pip", "__editable__.x-1.pth": str(source)}
    listed = "__editable__.x-1.pth,,\nx-1.dist-info/METADATA,,\n"
    write(info, {**pointer, "x-1.dist-info/RECORD": listed, "x-1.dist-info/top_level.txt": f"{OWN}_lib\n"})
    monkeypatch.syspath_prepend(str(info))
    monkeypatch.syspath_prepend(str(source))
    before = code_digest(f"{OWN}:f")
    assert before != sha(own / f"{OWN}.py")
    assert "runs by exec" in not_covered("model", f"{OWN}:f")


def test_a_namespace_package_whose_parent_is_not_imported_is_followed(own: Path) -> None:
    """And its digest is the same after the import."""
    write(own, {f"{OWN}_lib/a/deep.py": "A = 1", f"{OWN}.py": USES.replace("_lib.deep", "_lib.a.deep")})
    before = code_digest(f"{OWN}:f")
    assert before != sha(own / f"{OWN}.py") and f"{OWN}_lib" not in sys.modules
    sys.modules[OWN].f(None, None)
    code._codes.clear()
    assert f"{OWN}_lib.a.deep" in sys.modules and code_digest(f"{OWN}:f") == before


def test_a_namespace_package_whose_parent_is_gone_is_followed(own: Path) -> None:
    """Its `__path__` raises KeyError when it is read."""
    write(own, {f"{OWN}_lib/a/deep.py": "A = 1", f"{OWN}.py": USES.replace("_lib.deep", "_lib.a.deep")})
    importlib.import_module(f"{OWN}_lib.a")
    del sys.modules[f"{OWN}_lib"]
    assert code_digest(f"{OWN}:f") != sha(own / f"{OWN}.py")


@pytest.mark.parametrize("error", [KeyError, RuntimeError, OSError])
def test_a_finder_that_fails_is_told_once(error: type[Exception], own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            if name.startswith(f"{OWN}_"):
                raise error("no idea")
            return None

    monkeypatch.setattr(sys, "meta_path", [Odd, *sys.meta_path])
    text = f"def f(shape, n_classes):\n    import {OWN}_x, {OWN}_y, {OWN}_here\n"
    write(own, {f"{OWN}.py": text, f"{OWN}_here.py": "A = 1"})
    said = not_covered("model", f"{OWN}:f")
    assert said.count("the finder Odd fails to look up") == 1 and error.__name__ in said and "\n" not in said
    assert code_digest(f"{OWN}:f") != sha(own / f"{OWN}.py"), "another finder knows one of them"


def test_a_lazy_module_that_fails_and_a_source_that_is_gone_end_nothing(own: Path) -> None:
    lazy = "def __getattr__(name):\n    raise RuntimeError(name)\n"
    write(own, {f"{OWN}.py": f"import {OWN}_lazy, {OWN}_gone\n" + USES, f"{OWN}_lazy.py": lazy, f"{OWN}_gone.py": ""})
    importlib.import_module(OWN)
    (own / f"{OWN}_gone.py").unlink()
    said = not_covered("model", f"{OWN}:f")
    assert f"the module {OWN}_gone, which " in said and "\n" not in said
    assert len(code_digest(f"{OWN}:f") or "") == 64
