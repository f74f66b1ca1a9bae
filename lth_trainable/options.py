"""The command line of a command as an object. A word in place of a number is an error in one line.

The option parser itself says that in a box of ten lines, with the names of Python's types.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import tyro

from lth_trainable.errors import bad_value

T = TypeVar("T")
NUMBERS = {int: "a whole number", float: "a number"}
NOTHING = type(None)


def parsed(options: type[T], *more: type, args: Sequence[str] | None, **how: Any) -> T:
    """`tyro.cli` of a dataclass. args: None for those of this process. more: dataclasses within it.

    Raises `UserError` if the parser refuses a word in place of a number. For other mistakes it exits with code 2, and
    for help with 0.
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(options, args=words, **how)
    except SystemExit as end:
        if end.code:
            for each in (*more, options):
                check_numbers(words, each)
    return tyro.cli(options, args=words, **how)  # it exits again, and says why


def check_numbers(words: Sequence[str], options: Callable[..., Any]) -> None:
    """Raise `UserError` for the first flag that takes numbers and has something else.

    words: of a command line that the parser refuses. options: what has a field or parameter for each flag.
    """
    waits_for_word = _needs_a_word(options)  # it may follow several numbers
    flags = {_flag(name): hint for name, hint in typing.get_type_hints(options).items()}
    flag, hint = "", None  # whose value comes next
    for word in words:
        if word.startswith("--") or word == "-h":
            name, equals, value = word.partition("=")
            flag, hint = name, flags.get(_flag(name.removeprefix("--")))
            if equals:
                _check(flag, value, hint)
                hint = None
        elif hint is not None:
            _check(flag, word, hint)
            hint = hint if _takes_several(hint) and not waits_for_word else None
        else:
            waits_for_word = False


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _needs_a_word(options: Callable[..., Any]) -> bool:
    """Whether there is an argument without a flag and without a default."""
    hints = typing.get_type_hints(options, include_extras=True)
    needed = [hints[name] for name, of in inspect.signature(options).parameters.items() if of.default is of.empty]
    return any(note is tyro.conf.Positional for hint in needed for note in getattr(hint, "__metadata__", ()))


def _takes_several(hint: Any) -> bool:
    return any(typing.get_origin(part) is tuple for part in _parts(hint))


def _check(flag: str, word: str, hint: Any) -> None:
    """Raise `UserError` if a flag of this type takes only numbers, or words that are named, and this is neither."""
    kinds = _kinds(hint)
    numbers = [kind for kind in NUMBERS if kind in kinds]
    choices = [kind for kind in kinds if typing.get_origin(kind) is Literal]
    named = [str(value) for kind in choices for value in typing.get_args(kind)]
    takes_others = any(kind not in (*NUMBERS, *choices, NOTHING) for kind in kinds)
    if not numbers or takes_others or word in named or (word == "None" and NOTHING in kinds):
        return
    if not any(_is_a(kind, word) for kind in numbers):
        raise bad_value(flag, word, " or ".join([*(NUMBERS[kind] for kind in numbers), *named]))


def _parts(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _kinds(hint: Any) -> list[Any]:
    """The types that a word may be of: of each element, for a tuple."""
    found = list[Any]()
    for part in _parts(hint):
        within = typing.get_args(part) if typing.get_origin(part) is tuple else ()
        found += [kind for each in within if each is not Ellipsis for kind in _kinds(each)] if within else [part]
    return found


def _is_a(kind: Callable[[str], Any], word: str) -> bool:
    try:
        kind(word)
    except ValueError:
        return False
    return True
