"""The command line of a command as an object. A word in place of a number is an error in one line.

The option parser itself would say that in a box of ten lines, with the names of Python's types.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import tyro

from lth_trainable.errors import bad_value

T = TypeVar("T")
NUMBERS = {int: "a whole number", float: "a number"}


def parsed(options: Callable[..., T], *, args: Sequence[str] | None, **how: Any) -> T:
    """`tyro.cli` of a dataclass or function. args: None for those of this process.

    Raises `UserError` for a flag that takes numbers and has something else. Exits with code 2 where the option parser
    finds a mistake, and with 0 for help.
    """
    words = list(sys.argv[1:] if args is None else args)
    check_numbers(words, options)
    return tyro.cli(options, args=words, **how)


def check_numbers(words: Sequence[str], options: Callable[..., Any]) -> None:
    """Raise `UserError` for the first flag that takes numbers and has something else.

    words: of a command line. options: what has a field or parameter for each flag.
    """
    hints = {_flag(name): hint for name, hint in typing.get_type_hints(options).items()}
    flag, hint = "", None  # whose value comes next
    for word in words:
        if word.startswith("-") and not word[1:2].isdigit() and word[1:2] != ".":
            name, equals, value = word.partition("=")
            flag, hint = name, hints.get(_flag(name.removeprefix("--")))
            if equals:
                _check(flag, value, hint)
                hint = None
        elif hint is not None:
            _check(flag, word, hint)
            hint = hint if typing.get_origin(hint) is tuple else None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check(flag: str, word: str, hint: Any) -> None:
    """Raise `UserError` if the type of a flag has numbers, no text, and not this word."""
    kinds = _kinds(hint)
    numbers = [kind for kind in kinds if kind in NUMBERS]
    named = [str(value) for kind in kinds if typing.get_origin(kind) is Literal for value in typing.get_args(kind)]
    if not numbers or any(kind is str for kind in kinds) or word in named or (word == "None" and type(None) in kinds):
        return
    for kind in numbers:
        try:
            kind(word)
        except ValueError:
            continue
        return
    raise bad_value(flag, word, " or ".join([*(NUMBERS[kind] for kind in numbers), *named]))


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a value may have: of each element, for a tuple of any length."""
    if typing.get_origin(hint) is tuple:
        return _kinds(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for part in typing.get_args(hint) for kind in _kinds(part))
    return (hint,)
