"""Which files are of an installed package, also where the folder is not called site-packages.

`pip install --target FOLDER` puts packages into any folder, and so do other tools, and archives that hold packages.
Beside the packages lie the lists of what was installed (the file RECORD of a `*.dist-info` folder). The folder of an
editable install holds such a list too, but the source lies elsewhere and is not in it, so it stays the user's own.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, DistributionFinder, MetadataPathFinder
from pathlib import Path

_FOLDERS = ("site-packages", "dist-packages")


def is_installed(path: Path) -> bool:
    """Whether a file or folder of Python is of an installed package.

    That is so by the name of a folder above it, or if a folder of `sys.path` above it lists the package as installed.
    """
    if any(part in _FOLDERS or part.endswith(".egg") for part in path.parts):
        return True
    return any(path.relative_to(entry).parts[0] in _installed_in(str(entry)) for entry in _entries_above(path))


def _entries_above(path: Path) -> Iterator[Path]:
    above = set(path.parents)
    for given in sys.path:
        if isinstance(given, str):  # Python passes over others too
            yield from above & {Path(os.path.abspath(given)), Path(os.path.realpath(given))}


@functools.cache
def _installed_in(folder: str) -> frozenset[str]:
    """The files and folders at the top of a folder (or archive) that belong to installed packages."""
    found = MetadataPathFinder.find_distributions(DistributionFinder.Context(path=[folder]))
    return frozenset(name for distribution in found for name in _tops_of(distribution))


def _tops_of(distribution: Distribution) -> set[str]:
    """The files and folders at the top that were installed with a distribution; none if nothing says so.

    A source folder has a `*.egg-info` too, without a list of installed files.
    """
    if (record := _text_of(distribution, "RECORD")) is not None:  # lines "fastcore/basics.py,sha256=...,512"
        return {line.partition(",")[0].partition("/")[0] for line in record.splitlines()}
    if (files := _text_of(distribution, "installed-files.txt")) is not None:  # lines "../fastcore/basics.py"
        return {line.removeprefix("../").partition("/")[0] for line in files.splitlines()}
    if _text_of(distribution, "INSTALLER") is not None:  # some systems delete the list
        names = (_text_of(distribution, "top_level.txt") or "").split()
        return {top for name in names for top in (name, f"{name}.py")}
    return set()


def _text_of(distribution: Distribution, file: str) -> str | None:
    try:
        return distribution.read_text(file)
    except (OSError, UnicodeDecodeError):  # a damaged list says nothing
        return None
