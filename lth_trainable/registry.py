"""From names to functions: an entry of a registry (a dict), or a plug-in given as `package.module:function`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, TypeVar

from lth_trainable.errors import PLUG_IN, UserError, bad_value, unknown_name, words_of
from lth_trainable.own_code.code import code_of

Made = TypeVar("Made")

LIBRARIES = ("torchvision", "timm")  # `LIBRARY:NAME` is a network of that library, identified by its version


def lookup(where: str, name: str, registry: Mapping[str, Any], also_called: Mapping[str, str] | None = None) -> Any:
    """The entry `name` of `registry`, or the object that `package.module:function` names.

    Raises `UserError` with the valid names and the nearest one. also_called: see `unknown_name`.
    """
    if name in registry:
        return registry[name]
    if ":" in name:
        return _plugged_in(where, name)
    raise unknown_name(where, name, registry, also_called or {}, PLUG_IN)


def make(where: str, name: str, registry: Mapping[str, Any], kind: type[Made]) -> Made:
    """Call the function that `lookup` finds and return its result. Raises `UserError` if that is not a `kind`."""
    function = lookup(where, name, registry)
    try:
        with printing_aside():
            made = function()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # any exception here is a mistake in the user's function
        raise UserError(f"{where}: {name!r} cannot be made: {type(error).__name__}: {words_of(error)}") from error
    if not isinstance(made, kind):
        raise bad_value(where, name, f"a function that returns a {kind.__name__}", f"it returns {type(made).__name__}")
    return made


def check_call(where: str, function: Callable[..., Any], expected: str, *arguments: Any) -> None:
    """Raise `UserError` if a user's function cannot be called with these arguments, or only returns a promise.

    expected: how it is called, such as "f(root, split_seed)".
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise bad_value(where, "an async function", f"a plain function {expected}")
    if inspect.isgeneratorfunction(function):
        raise bad_value(where, "a function that yields", f"one that returns: {expected}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function in C may not tell; then calling it does
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        plain = signature.replace(parameters=bare, return_annotation=signature.empty)
        name = getattr(function, "__name__", type(function).__name__)
        raise UserError(f"{where}: found {name}{plain}, {error}; expected {expected}") from error


@contextlib.contextmanager
def printing_aside() -> Iterator[None]:
    """What a plug-in prints goes to standard error, because standard output belongs to the command."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


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
    """SHA-256 (hex) of a plug-in's code; None for a name without a colon, which is no plug-in.

    The code is the source of its module and of the user's own modules that it imports, see `own_code`. For a network of
    `LIBRARIES`, it is the library's version.

    It is part of the keys of trials that use the plug-in, so an edited plug-in makes new trials. The edit counts from
    the next process on, since this one keeps running the module that it imported. Raises `UserError` if there is no
    Python source.
    """
    if ":" not in name:
        return None
    if (library := name.partition(":")[0]) in LIBRARIES:
        return hashlib.sha256(f"{library} {library_version(library)}".encode()).hexdigest()
    digest = code_of(_imported(library)).digest
    if digest is None:
        raise UserError(f"{name}: found no Python source for this plug-in, so later changes could not be detected")
    return digest


def not_covered(where: str, name: str) -> str:
    """In one line, what the digest of a plug-in's code does not cover; "" if there is nothing.

    where: its kind. What a data set reads is covered by the digest of the data.
    """
    if ":" not in name or name.partition(":")[0] in LIBRARIES:
        return ""
    module, _, function = name.partition(":")
    code = code_of(_imported(module))
    gaps = [*code.not_followed, *(code.reads_of(function) if where != "dataset" else ())]
    if not gaps:
        return ""
    more = f" and {len(gaps) - 3} more" if len(gaps) > 3 else ""
    return f"its keys do not cover {', '.join(gaps[:3])}{more}; when that changes, change the source too"


def library_version(library: str) -> str:
    """The public version of a library: "0.29.1" for "0.29.1+cu130". Raises `UserError` if it is not installed."""
    try:
        return version(library).partition("+")[0]
    except PackageNotFoundError as error:
        raise UserError(
            f"{library}: found no such package; expected it to be installed: pip install {library}"
        ) from error


def _imported(name: str) -> ModuleType:
    """Import the module `name` and note its code now, since the files may be edited later."""
    module = sys.modules.get(name)
    if module is None:
        with printing_aside():
            module = importlib.import_module(name)
    code_of(module)
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
