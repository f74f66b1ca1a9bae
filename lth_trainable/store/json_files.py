"""JSON in files: one strict reader for all of them, and a checksum inside those that no manifest covers.

A *sealed* JSON file has the entry `sha256`: the SHA-256 of its own bytes with 64 zeros in the place of that number. So
every bit of the file is covered, those of the checksum and of its name included.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from lth_trainable.store import indented

SEAL = "sha256"
DEPTH = 64  # of lists and objects within each other; our deepest file has 6
_OPEN = '\n "' + SEAL + '": "'  # an entry of the outermost object; those within it are indented further
_SEALED = re.compile(re.escape(_OPEN.encode()) + rb'([0-9a-f]{64})"')
_ZEROS = "0" * 64
_LONG = re.compile(rb"[0-9]{19}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_INFINITE = float("inf"), float("-inf")


class NotJson(ValueError):
    """Raised for bytes that are not the JSON that was expected; the message says in one line what is wrong."""


def to_json(content: Any) -> bytes:
    """Content as JSON in the format of all files in the store: indented, sorted, no NaN, a final newline."""
    return (indented.dumps(content) + "\n").encode()


def from_json(raw: bytes) -> Any:
    """The content of a JSON file. Raises `NotJson`.

    Stricter than Python: no NaN, no infinite number, no whole number of more than 64 bits, no half of a surrogate pair,
    no name twice in an object, and at most `DEPTH` levels.
    """
    try:
        content = json.loads(
            raw.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_no_name_twice,
            parse_float=_finite, parse_int=_of_64_bits if _LONG.search(raw) else None,
        )  # fmt: skip
        if _SURROGATE.search(raw):
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError as error:
        raise NotJson(f"it is nested more than {DEPTH} levels deep") from error
    except NotJson:
        raise
    except ValueError as error:  # not UTF-8, not JSON, or a number of more digits than Python reads
        raise NotJson(str(error).splitlines()[0]) from error
    if raw.count(b"[") + raw.count(b"{") > DEPTH:
        _check_depth(content)
    return content


def object_from_json(raw: bytes) -> dict[str, Any]:
    """The content of a JSON file that holds an object. Raises `NotJson`."""
    content = from_json(raw)
    if not isinstance(content, dict):
        raise NotJson(f"it holds {_kind(content)}, not an object")
    return content


def seal_json(content: Mapping[str, Any]) -> bytes:
    """An object as JSON with its own checksum, for `unseal_json`."""
    blank = to_json({**content, SEAL: _ZEROS})
    return blank.replace((_OPEN + _ZEROS).encode(), (_OPEN + hashlib.sha256(blank).hexdigest()).encode(), 1)


def unseal_json(raw: bytes, unsealed: Any = None) -> dict[str, Any]:
    """The content of a sealed JSON file without its checksum. Raises `NotJson` if one bit of it is not as written.

    unsealed: the `format` of such files of version 0.4.0, which had no checksum: they are taken as they are.
    """
    content = object_from_json(raw)
    if SEAL not in content:
        if unsealed is not None and content.get("format") == unsealed:
            return content
        raise NotJson(f"it has no checksum ({SEAL})")
    found = _SEALED.findall(raw)
    blank = _SEALED.sub((_OPEN + _ZEROS + '"').encode(), raw)
    if len(found) != 1 or hashlib.sha256(blank).hexdigest().encode() != found[0]:
        raise NotJson("it does not have its own checksum: it was changed after it was written")
    return {name: value for name, value in content.items() if name != SEAL}


def _refuse_constant(name: str) -> float:
    raise NotJson(f"it holds the number {name}")


def _of_64_bits(text: str) -> int:
    value = int(text)
    if not -(1 << 63) <= value < 1 << 63:
        raise NotJson(f"it holds a number that is too large ({text[:20]})")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if value in _INFINITE:
        raise NotJson(f"it holds a number that is too large ({text[:20]})")
    return value


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotJson(f"it has the entry {twice[:40]!r} twice")
    return found


def _check_depth(content: Any) -> None:
    layer = [content]
    for _ in range(DEPTH + 1):
        below = [list(part.values()) if isinstance(part, dict) else part for part in layer]
        layer = [part for parts in below for part in parts if isinstance(part, dict | list)]
        if not layer:
            return
    raise NotJson(f"it is nested more than {DEPTH} levels deep")


def _kind(content: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}
    return kinds.get(type(content), "nothing")
