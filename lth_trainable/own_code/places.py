"""Where the modules of a program lie, and which are the user's own: not of Python, of a package or of this project."""

from __future__ import annotations

import functools
import inspect
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

_HERE = Path(__file__).resolve().parents[1]
_PROJECT = tuple(_HERE.parent / name for name in (_HERE.name, "sweeps", "analysis"))
_INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a module lies. folders: where its submodules are searched, if it is a package."""

    file: str | None
    folders: Sequence[str] | None
    loader: Any


def place_of(name: str, known: dict[str, Place | None]) -> Place | None:
    """Where a module is, without importing it; None if there is none of this name."""
    if name not in known:
        known[name] = _imported_place(name) or _searched_place(name, known)
    return known[name]


def _imported_place(name: str) -> Place | None:
    module = sys.modules.get(name)
    if not isinstance(module, ModuleType):
        return None
    file, folders = getattr(module, "__file__", None), getattr(module, "__path__", None)
    return Place(
        file=file, folders=None if folders is None else list(folders), loader=getattr(module, "__loader__", None)
    )


def _searched_place(name: str, known: dict[str, Place | None]) -> Place | None:
    above, _, _ = name.rpartition(".")
    folders = None
    if above:
        parent = place_of(above, known)
        if parent is None or parent.folders is None:
            return None
        folders = parent.folders
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, folders)
        except (ImportError, ValueError, AttributeError):  # of a finder that somebody has installed
            continue
        if spec is not None:
            inner = spec.submodule_search_locations
            file = spec.origin if spec.has_location else None
            return Place(file=file, folders=None if inner is None else list(inner), loader=spec.loader)
    return None


def is_own(place: Place) -> bool:
    files = [place.file] if place.file is not None else list(place.folders or ())
    return any(is_own_file(file) for file in files)


@functools.cache
def is_own_file(file: str) -> bool:
    """Whether a file of Python belongs to the user: not to Python, an installed package or this project."""
    if file.startswith("<"):  # a module that is part of Python, or code that was typed in
        return False
    for path in (Path(file), Path(file).resolve()):
        if any(part in _INSTALLED for part in path.parts):
            return False
        if any(path.is_relative_to(folder) for folder in (*_PROJECT, *_of_python())):
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
        except TypeError:  # a built-in module
            return None
    is_source = place.file is not None and not place.file.endswith((*EXTENSION_SUFFIXES, ".pyc"))
    return place.file if is_source else None
