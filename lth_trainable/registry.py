"""Names on a command line -> functions: a dict's own entry, or a user's `package.module:function`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from lth_trainable.errors import UserError, bad_value, unknown_name

Made = TypeVar("Made")

_sources: dict[str, tuple[ModuleSpec | None, str | None]] = {}  # module -> its import, SHA-256 of what was imported


def lookup(where: str, name: str, registry: Mapping[str, Any]) -> Any:
    """The entry `name` of `registry`, or the object that `package.module:function` names.

    Raises `UserError` with the valid names and the nearest one.
    """
    if name in registry:
        return registry[name]
    if ":" in name:
        return _plugged_in(where, name)
    raise unknown_name(where, name, registry)


def make(where: str, name: str, registry: Mapping[str, Any], kind: type[Made]) -> Made:
    """What the function of this name, found as by `lookup`, returns. Raises `UserError` where that is no `kind`."""
    function = lookup(where, name, registry)
    try:
        made = function()
    except UserError:
        raise
    except Exception as error:  # whatever a user's function raises is a mistake in that function
        raise UserError(f"{where}: {name!r} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(made, kind):
        raise bad_value(where, name, f"a function that returns a {kind.__name__}", f"it returns {type(made).__name__}")
    return made


def lazy(package: str, homes: Mapping[str, Iterable[str]]) -> tuple[list[str], Callable[[str], Any]]:
    """`__all__` and `__getattr__` of a package whose names load when first used, so that importing it imports nothing.

    homes: module below `package` -> the names that it defines.
    """
    module_of = {name: module for module, names in homes.items() for name in names}

    def load(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return pkgutil.resolve_name(f"{package}.{module_of[name]}:{name}")

    return list(module_of), load


def code_digest(name: str) -> str | None:
    """SHA-256 of the module that a plugged-in `package.module:function` lives in; None for a name of our own.

    It enters the keys of the trials that use the plug-in, so that an edited plug-in makes new trials: in the next
    process, since this one goes on with what it has imported.
    """
    if ":" not in name:
        return None
    module = _imported(name.partition(":")[0])
    sha = _sources[module.__name__][1]
    if sha is None:
        raise UserError(f"{name}: no Python source found for this plug-in, so its trials could not be told apart")
    return sha


def _imported(name: str) -> ModuleType:
    """The module `name`; the SHA-256 of its source is noted as it is imported, since the file may be edited later."""
    module = importlib.import_module(name)
    noted = _sources.get(module.__name__)
    if noted is None or noted[0] is not module.__spec__:  # a reload makes another one
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
    except Exception as error:  # whatever a user's module raises is a mistake in that module
        raise UserError(f"{where}: cannot import the module of {name!r}: {type(error).__name__}: {error}") from error
    if not callable(getattr(loaded, attribute, None)):
        raise UserError(f"{where}: module {module!r} has no function {attribute!r}")
    return getattr(loaded, attribute)
