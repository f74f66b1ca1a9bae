"""Names on a command line -> functions: a dict's own entry, or a user's `package.module:function`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lth_trainable.errors import UserError, bad_value, unknown_name

Made = TypeVar("Made")


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


def code_digest(name: str) -> str | None:
    """SHA-256 of the module that a plugged-in `package.module:function` lives in; None for a name of our own.

    It enters the keys of the trials that use the plug-in, so that an edited plug-in makes new trials.
    """
    if ":" not in name:
        return None
    source = inspect.getsourcefile(sys.modules.get(name.split(":")[0]) or importlib.import_module(name.split(":")[0]))
    if source is None:
        raise UserError(f"{name}: no Python source found for this plug-in, so its trials could not be told apart")
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()


def _plugged_in(where: str, name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise bad_value(where, name, "package.module:function")
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # whatever a user's module raises is a mistake in that module
        raise UserError(f"{where}: cannot import the module of {name!r}: {type(error).__name__}: {error}") from error
    if not callable(getattr(loaded, attribute, None)):
        raise UserError(f"{where}: module {module!r} has no function {attribute!r}")
    return getattr(loaded, attribute)
