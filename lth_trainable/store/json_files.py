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
_OTHERS = bytes(set(range(256)) - set(b"0123456789."))
_SHAPES = bytes.maketrans(b"123456789" + _OTHERS, b"0" * 9 + b" " * len(_OTHERS))
_LONG = b" " + b"0" * 19  # in these shapes: a whole number that may need more than 64 bits, not the decimals of another
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_BLANKS = b" \t\r\n"
_CONTAINERS = (dict, list)
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
        text = raw.decode("utf-8")
        content = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite,
            parse_int=_of_64_bits if _LONG in b" " + raw.translate(_SHAPES) else None,
        )  # fmt: skip
        if _names(content) != raw.translate(None, _BLANKS).count(b'":'):
            json.loads(text, object_pairs_hook=_no_name_twice)
        if _SURROGATE.search(raw):
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError as error:
        raise NotJson(f"it is nested more than {DEPTH} levels deep") from error
    except NotJson:
        raise
    except ValueError as error:  # not UTF-8, not JSON, or a number of more digits than Python reads
        raise NotJson(str(error).splitlines()[0]) from error
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


def _names(content: Any) -> int:
    """Number of names in all objects. Raises `NotJson` if they are nested too deep.

    It is that of `":` in the text without blanks, unless an object had a name twice or a text holds these characters.
    """
    names, layer = 0, [content]
    for _ in range(DEPTH + 1):
        names += sum([len(part) for part in layer if type(part) is dict])
        layer = [
            part
            for parts in layer
            for part in (parts.values() if type(parts) is dict else parts if type(parts) is list else ())
            if type(part) in _CONTAINERS
        ]
        if not layer:
            return names
    raise NotJson(f"it is nested more than {DEPTH} levels deep")


def _kind(content: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}
    return kinds.get(type(content), "nothing")
