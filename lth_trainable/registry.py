"""From names to functions: an entry of a registry (a dict), or a plug-in given as `package.module:function`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from lth_trainable.errors import UserError, bad_value, unknown_name, words_of

Made = TypeVar("Made")

LIBRARIES = ("torchvision", "timm")  # `LIBRARY:NAME` is a network of that library, identified by its version

_sources: dict[str, tuple[ModuleSpec | None, str | None]] = {}  # by module: its import, SHA-256 of its source then


def lookup(where: str, name: str, registry: Mapping[str, Any], also_called: Mapping[str, str] | None = None) -> Any:
    """The entry `name` of `registry`, or the object that `package.module:function` names.

    Raises `UserError` with the valid names and the nearest one. also_called: see `unknown_name`.
    """
    if name in registry:
        return registry[name]
    if ":" in name:
        return _plugged_in(where, name)
    raise unknown_name(where, name, registry, also_called or {})


def make(where: str, name: str, registry: Mapping[str, Any], kind: type[Made]) -> Made:
    """Call the function that `lookup` finds and return its result. Raises `UserError` if that is not a `kind`."""
    function = lookup(where, name, registry)
    try:
        made = function()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # any exception here is a mistake in the user's function
        raise UserError(f"{where}: {name!r} cannot be made: {type(error).__name__}: {words_of(error)}") from error
    if not isinstance(made, kind):
        raise bad_value(where, name, f"a function that returns a {kind.__name__}", f"it returns {type(made).__name__}")
    return made


def lazy(package: str, homes: Mapping[str, Iterable[str]]) -> tuple[list[str], Callable[[str], Any]]:
    """`__all__` and `__getattr__` of a package that imports its modules only when their names are first used.

    homes: the names that each module of the package defines.
    """
    module_of = {name: module for module, names in homes.items() for name in names}

    def load(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return pkgutil.resolve_name(f"{package}.{module_of[name]}:{name}")

    return list(module_of), load


def code_digest(name: str) -> str | None:
    """SHA-256 (hex) of the source of a plug-in's module; None for a name without a colon, which is no plug-in.

    For a network of `LIBRARIES`, of the library's version.

    It is part of the keys of trials that use the plug-in, so an edited plug-in makes new trials. The edit counts from
    the next process on, since this one keeps running the module that it imported. Raises `UserError` if there is no
    Python source.
    """
    if ":" not in name:
        return None
    if (library := name.partition(":")[0]) in LIBRARIES:
        return hashlib.sha256(f"{library} {library_version(library)}".encode()).hexdigest()
    module = _imported(library)
    sha = _sources[module.__name__][1]
    if sha is None:
        raise UserError(f"{name}: found no Python source for this plug-in, so later changes could not be detected")
    return sha


def library_version(library: str) -> str:
    """The public version of a library: "0.29.1" for "0.29.1+cu130". Raises `UserError` if it is not installed."""
    try:
        return version(library).partition("+")[0]
    except PackageNotFoundError as error:
        raise UserError(
            f"{library}: found no such package; expected it to be installed: pip install {library}"
        ) from error


def _imported(name: str) -> ModuleType:
    """Import the module `name` and record the SHA-256 of its source now, since the file may be edited later."""
    module = sys.modules.get(name) or importlib.import_module(name)
    noted = _sources.get(module.__name__)
    if noted is None or noted[0] is not module.__spec__:  # a reload makes a new __spec__
        source = inspect.getsourcefile(module)
        sha = None if source is None else hashlib.sha256(Path(source).read_bytes()).hexdigest()
        _sources[module.__name__] = (module.__spec__, sha)
    return module


def _plugged_in(where: str, name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise bad_value(where, name, "package.module:function")
    try:
        loaded = _imported(module)
    except (Exception, SystemExit) as error:  # any exception here is a mistake in the user's module
        reason = f"{type(error).__name__}: {words_of(error)}"
        raise UserError(f"{where}: cannot import the module of {name!r}: {reason}") from error
    if not callable(getattr(loaded, attribute, None)):
        raise UserError(f"{where}: module {module!r} has no function {attribute!r}")
    return getattr(loaded, attribute)
