"""The code that is running: version of this project, and SHA-256 of the source files of a package."""

from __future__ import annotations

import functools
import hashlib
import tomllib
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from lth_trainable.errors import UserError

DISTRIBUTION = "lottery-sweep"
_PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


@functools.cache
def project_version(project: Path = _PROJECT) -> str:
    """The version of this project, from the source tree that is running, or else from the installed package.

    Raises `UserError` if there is neither.
    """
    if project.is_file():
        found = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if found.get("name") == DISTRIBUTION:
            return str(found["version"])
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        raise UserError(
            f"{DISTRIBUTION}: found neither {project} nor an installed package; expected one of them, since every "
            "record names the version that made it; run from the whole source tree, or pip install it"
        ) from None


@functools.cache
def source_sha256(package: str) -> str:
    """SHA-256 (hex) of all Python files of a package and its subpackages, and of their paths within it."""
    root = Path(str(files(package)))
    sources = sorted((path.relative_to(root).as_posix(), path) for path in root.rglob("*.py"))
    return hashlib.sha256(b"".join(name.encode() + path.read_bytes() for name, path in sources)).hexdigest()
