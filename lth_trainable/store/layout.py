"""What a JSON file of a storage must look like before its content is used: its entries, their types and their ranges.

A checksum says that a file is as somebody has written it, not that it was written by this project. So what leaves this
module has the types that the rest of the code relies on, and what does not is damaged.

A layout may have fewer entries than the file; entries that it does not name are left alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lth_trainable.errors import UserError
from lth_trainable.store.indented import Fixed

ODD = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError)
# what computing with content of unexpected types or ranges raises


class Odd(ValueError):
    """Raised for content that does not have its layout; the message says in one line where and what."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A text, number or truth value. least, most: of a number. null: whether it may be missing a value."""

    types: tuple[type, ...]
    words: str
    least: float = float("-inf")
    most: float = float("inf")
    null: bool = False

    def check(self, at: str, value: Any) -> None:
        if value is None and self.null:
            return
        if type(value) not in self.types or (type(value) is not str and not self.least <= value <= self.most):
            raise Odd(f"{at} is {_shown(value)}, not {self.words}")

    def check_all(self, at: str, values: Sequence[Any]) -> None:
        """The same for many values, faster."""
        found = set(map(type, values))
        if found <= set(self.types) and str not in found:
            if not values or (self.least <= min(values) and max(values) <= self.most):
                return
        elif found <= {*self.types, *((type(None),) if self.null else ())} and self.least == float("-inf"):
            return
        for value in values:
            self.check(at, value)


@dataclass(frozen=True, kw_only=True)
class Entries:
    """An object. needed: entries that it must have. others: entries that it may lack."""

    needed: Mapping[str, Layout] = field(default_factory=dict)
    others: Mapping[str, Layout] = field(default_factory=dict)
    null: bool = False

    def check(self, at: str, value: Any) -> None:
        if value is None and self.null:
            return
        for name, layout in {**self.others, **self.needed}.items():
            if name in _dict(at, value):
                layout.check(f"{at}.{name}" if at else name, value[name])
            elif name in self.needed:
                raise Odd(f"{at or 'it'} has no entry {name}")


@dataclass(frozen=True, kw_only=True)
class Each:
    """An object in which every entry, whatever its name, is alike."""

    of: Layout

    def check(self, at: str, value: Any) -> None:
        for name, entry in _dict(at, value).items():
            self.of.check(f"{at}.{name[:80]}", entry)


@dataclass(frozen=True, kw_only=True)
class ListOf:
    """A list in which every entry is alike. size: number of entries; None for any."""

    of: Layout
    size: int | None = None

    def check(self, at: str, value: Any) -> None:
        for number, entry in enumerate(_list(at, value)):
            self.of.check(f"{at}[{number}]", entry)
        if self.size is not None and len(value) != self.size:
            raise Odd(f"{at} has {len(value)} entries, not {self.size}")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A list of objects with the same entries, as rows of a table have."""

    needed: Mapping[str, Value]
    others: Mapping[str, Value] = field(default_factory=dict)

    def check(self, at: str, value: Any) -> None:
        rows = _list(at, value)
        if not all(type(row) in (dict, Fixed) for row in rows):
            raise Odd(f"{at} holds rows that are not objects")
        for name, column in self.needed.items():
            try:
                column.check_all(f"{at}: {name}", [row[name] for row in rows])
            except KeyError as error:
                raise Odd(f"{at} has a row without {name}") from error
        for name, column in self.others.items():
            column.check_all(f"{at}: {name}", [row[name] for row in rows if name in row])


Layout = Value | Entries | Each | ListOf | Rows


def _dict(at: str, value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise Odd(f"{at or 'it'} is {_shown(value)}, not an object")
    return value


def _list(at: str, value: Any) -> list[Any]:
    if type(value) is not list:
        raise Odd(f"{at or 'it'} is {_shown(value)}, not a list")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


@contextlib.contextmanager
def readable(what: str) -> Iterator[None]:
    """Within this block content of a file is taken apart; that it cannot be is raised as `Odd`. what: which file."""
    try:
        yield
    except UserError:
        raise
    except ODD as error:
        problem = f"no entry {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0][:300]
        raise Odd(f"{what} is not as this version writes it ({problem})") from error
