"""Where the modules of a program lie, and which are the user's own: not of Python, of a package or of this project."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from lth_trainable.own_code.installed import is_installed

_HERE = Path(__file__).resolve().parents[1]
_PROJECT = tuple(_HERE.parent / name for name in (_HERE.name, "sweeps", "analysis"))


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a module lies. folders: where its submodules are searched, if it is a package."""

    file: str | None
    folders: Sequence[str] | None
    loader: Any


@dataclass(frozen=True, kw_only=True)
class Places:
    """The modules that were looked up so far. failed: by the name of a finder, the first module it failed for."""

    known: dict[str, Place | None] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def place_of(self, name: str) -> Place | None:
        """Where a module is, without importing it; None if there is none of this name."""
        if name not in self.known:
            self.known[name] = _imported_place(name) or self._searched_place(name)
        return self.known[name]

    @property
    def not_followed(self) -> tuple[str, ...]:
        """The finders that failed, in words."""
        return tuple(f"a module that {finder} fails to look up ({what})" for finder, what in self.failed.items())

    def _searched_place(self, name: str) -> Place | None:
        above, _, _ = name.rpartition(".")
        parent = self.place_of(above) if above else None
        if above and (parent is None or parent.folders is None):
            return None
        failed: dict[str, str] = {}
        for finder in sys.meta_path:
            try:
                place = _place_by(finder, name, None if parent is None else parent.folders)
            except (ImportError, ValueError, AttributeError):  # what finders raise for a module they do not have
                continue
            except Exception as error:  # anyone may add a finder, so any kind; another one may know the module
                failed[_name_of(finder)] = f"{name}: {type(error).__name__}: {error}"
                continue
            if place is not None:
                return place
        if parent is None or is_own(parent):
            self.failed.update({finder: what for finder, what in failed.items() if finder not in self.failed})
        return None


def _imported_place(name: str) -> Place | None:
    module = sys.modules.get(name)
    if not isinstance(module, ModuleType):
        return None
    try:
        file, folders = getattr(module, "__file__", None), getattr(module, "__path__", None)
        loader = getattr(module, "__loader__", None)
        return _made_place(file, folders, loader)
    except Exception:  # lazy modules run code of their own here, and a lazy path needs its parent in sys.modules
        return None


def _place_by(finder: Any, name: str, folders: Sequence[str] | None) -> Place | None:
    """Where one finder finds a module. folders: those of the package above it. Raises what the finder raises."""
    try:
        spec: ModuleSpec | None = finder.find_spec(name, folders)
    except KeyError:
        # Python looks up the parent of a namespace package in sys.modules, where it may not be yet. For the last part
        # of the name, in the folders of the parent, it finds the same and needs no parent.
        if finder is not PathFinder or folders is None:
            raise
        spec = PathFinder.find_spec(name.rpartition(".")[2], folders)
    if spec is None:
        return None
    return _made_place(spec.origin if spec.has_location else None, spec.submodule_search_locations, spec.loader)


def _made_place(file: Any, folders: Any, loader: Any) -> Place:
    return Place(
        file=os.fspath(file) if isinstance(file, str | os.PathLike) else None,
        folders=None if folders is None else [folder for folder in folders if isinstance(folder, str)], loader=loader,
    )  # fmt: skip


def _name_of(finder: Any) -> str:
    return f"the finder {getattr(finder, '__name__', type(finder).__name__)}"


def is_own(place: Place) -> bool:
    files = [place.file] if place.file is not None else list(place.folders or ())
    return any(is_own_file(file) for file in files)


@functools.cache
def is_own_file(file: str) -> bool:
    """Whether a file of Python belongs to the user: not to Python, an installed package or this project."""
    if file.startswith("<"):  # a module that is part of Python, or code that was typed in
        return False
    for path in (Path(os.path.abspath(file)), Path(os.path.realpath(file))):
        if is_installed(path) or any(path.is_relative_to(folder) for folder in (*_PROJECT, *_of_python())):
            return False
    return True


@functools.cache
def _of_python() -> tuple[Path, ...]:
    """The folders of Python's own modules."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    return tuple({folder for path in paths if path for folder in (Path(path), Path(path).resolve())})


def source_file(name: str, place: Place) -> str | None:
    module = sys.modules.get(name)
    if isinstance(module, ModuleType):
        try:
            return inspect.getsourcefile(module)
        except Exception:  # TypeError for a built-in module; a lazy module runs code of its own here: any kind
            return None
    is_source = place.file is not None and not place.file.endswith((*EXTENSION_SUFFIXES, ".pyc"))
    return place.file if is_source else None
