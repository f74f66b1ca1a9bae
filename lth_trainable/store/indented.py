"""JSON with an indentation of one space, as `json.dumps(..., indent=1, sort_keys=True)` writes it, but faster.

Python's encoder is written in C, but not for indented text. Here it writes each object or list of plain values as a
whole, with line breaks in its separators, and only the levels above are put together in Python. An object that does not
change any more (`Fixed`) is written once for all files that have it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Hashable
from typing import Any, NoReturn

_PLAIN = frozenset((str, int, float, bool, type(None)))
_LISTS = (list, tuple)
_plain = json.JSONEncoder(allow_nan=False).encode


class Fixed(dict[str, Any]):
    """An object of plain values that cannot be changed, so that a text that is made from it need not be made again.

    A copy is an ordinary dict, also in another process.
    """

    __slots__ = ("_texts",)
    _texts: dict[Hashable, str]

    def text(self, kind: Hashable, make: Callable[[Fixed], str]) -> str:
        """A text of this kind; `make` is called for the first one."""
        try:
            texts = self._texts
        except AttributeError:
            texts = self._texts = dict[Hashable, str]()
        if kind not in texts:
            texts[kind] = make(self)
        return texts[kind]

    def _refuse(self, *args: Any, **more: Any) -> NoReturn:
        raise TypeError("it cannot be changed, because its text is known; change a copy: dict(...)")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


def dumps(content: Any) -> str:
    """The text of `json.dumps(content, indent=1, sort_keys=True, allow_nan=False)`. Raises `ValueError` for NaN."""
    return _text(content, 0)


def _text(value: Any, depth: int) -> str:
    kind = type(value)
    if kind in _PLAIN:
        return _plain(value)
    if kind is Fixed:
        return str(value.text(depth, lambda fixed: _text(dict(fixed), depth)))
    is_object = kind is dict and set(map(type, value)) == {str}
    if not is_object and (kind not in _LISTS or not value):  # empty, or with keys that are not text, or no JSON
        return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).replace("\n", "\n" + " " * depth)
    start, between, end = _breaks(depth)
    if _PLAIN.issuperset(map(type, value.values() if is_object else value)):
        body = _flat(depth)(value)[1:-1]
    elif is_object:
        body = between.join([f"{_key(key)}: {_text(value[key], depth + 1)}" for key in sorted(value)])
    else:
        body = between.join([_text(item, depth + 1) for item in value])
    return f"{{{start}{body}{end}}}" if is_object else f"[{start}{body}{end}]"


@functools.cache
def _breaks(depth: int) -> tuple[str, str, str]:
    """The text after an opening bracket, between two items, and before the closing bracket."""
    line = "\n" + " " * (depth + 1)
    return line, f",{line}", line[:-1]


@functools.cache
def _flat(depth: int) -> Callable[[Any], str]:
    """Writes an object or a list of plain values; each is on a line of its own."""
    return json.JSONEncoder(sort_keys=True, allow_nan=False, separators=(_breaks(depth)[1], ": ")).encode


@functools.lru_cache(maxsize=1 << 12)
def _key(key: str) -> str:
    return _plain(key)
