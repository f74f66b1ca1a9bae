"""What can happen to a file or folder of a storage: to its bytes, to its kind, and to what a hostile author writes."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

DEPTH = 1_000


class Bomb:
    """Who unpickles it makes a file outside of the storage."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def damage(path: Path, how: str, rng: Random, outside: Path) -> None:
    """Damage what is at `path`. how: one of `WAYS`. outside: a folder that nobody may change."""
    WAYS[how](path, rng, outside)


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file anew: the old one may have other names."""
    remove(path)
    path.write_bytes(content)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# -- bytes -------------------------------------------------------------------------------------------------------------


def _bytes(change: Callable[[bytearray, Random], bytes | bytearray]) -> Callable[[Path, Random, Path], None]:
    def changed(path: Path, rng: Random, _: Path) -> None:
        content = bytearray(path.read_bytes()) if path.is_file() else bytearray(b"in place of a folder")
        replace_bytes(path, bytes(change(content, rng)))

    return changed


def _flipped(content: bytearray, rng: Random) -> bytearray:
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content


def _scrambled(content: bytearray, rng: Random) -> bytearray:
    for _ in range(min(len(content), 20)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return content


# -- another kind of thing ---------------------------------------------------------------------------------------------


def _replaced(make: Callable[[Path, Random, Path], object]) -> Callable[[Path, Random, Path], None]:
    def replaced(path: Path, rng: Random, outside: Path) -> None:
        remove(path)
        make(path, rng, outside)

    return replaced


def _folder(path: Path, rng: Random, _: Path) -> None:
    path.mkdir()
    if rng.random() < 0.5:
        (path / "x").mkdir()
        (path / "x" / path.name).write_text("{}")


def _socket(path: Path, *_: object) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may have only 107 characters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name[:60])
        os.rename(path.name[:60], path.name)
    finally:
        os.chdir(here)


def _bomb(path: Path, _: Random, outside: Path) -> None:
    import pickle

    path.write_bytes(pickle.dumps(Bomb(outside / "pwned")))


def _older(path: Path, rng: Random, _: Path) -> None:
    seconds = rng.choice((0, 1, 4e9, 9e9))
    if path.is_file():
        replace_bytes(path, path.read_bytes())  # else every file that it is linked with would change
    os.utime(path, (seconds, seconds))


def _swapped(path: Path, rng: Random, _: Path) -> None:
    """The content of another file of the same folder, or of another folder beside it."""
    others = [other for other in sorted(path.parent.parent.rglob("*")) if other.is_file() and other != path]
    content = rng.choice(others).read_bytes() if others else b""
    replace_bytes(path, content)


WAYS: Mapping[str, Callable[[Path, Random, Path], object]] = {
    "removed": lambda path, *_: remove(path),
    "emptied": _bytes(lambda *_: b""),
    "truncated": _bytes(lambda content, rng: content[: rng.randrange(len(content) + 1)]),
    "flipped": _bytes(_flipped),
    "scrambled": _bytes(_scrambled),
    "longer": _bytes(lambda content, rng: content + content[: rng.randrange(1, 100)]),
    "zeros": _bytes(lambda content, _: bytes(len(content))),
    "swapped": _swapped,
    "deep": _bytes(lambda *_: b"[" * DEPTH + b"]" * DEPTH),
    "deep objects": _bytes(lambda *_: b'{"a":' * DEPTH + b"1" + b"}" * DEPTH),
    "deeper": _bytes(lambda *_: b"[" * 200_000),
    "not an object": _bytes(lambda _, rng: rng.choice((b"1", b"[]", b'"x"', b"null", b"true", b"NaN", b"{}"))),
    "digits": _bytes(lambda *_: b"9" * 10_000),
    "not UTF-8": _bytes(lambda *_: b'{"a": "\xff\xfe"}'),
    "folder": _replaced(_folder),
    "link to a file outside": _replaced(lambda path, _, outside: path.symlink_to(outside / "canary")),
    "link to a folder outside": _replaced(lambda path, _, outside: path.symlink_to(outside / "folder")),
    "dangling link": _replaced(lambda path, _, outside: path.symlink_to(outside / "nothing")),
    "link to itself": _replaced(lambda path, *_: path.symlink_to(path)),
    "link to its parent": _replaced(lambda path, *_: path.symlink_to(path.parent)),
    "link to a device": _replaced(lambda path, *_: path.symlink_to("/dev/zero")),
    "pipe": _replaced(lambda path, *_: os.mkfifo(path)),
    "socket": _replaced(_socket),
    "pickle": _replaced(_bomb),
    "other times": _older,
}


# -- what a hostile author writes --------------------------------------------------------------------------------------

NASTY = (
    None, True, 0, -1, 0.5, 1e300, 10**30, -(10**30), 2**63, "", "x" * 100_000, "a\x1b[2J\x07b", "../../outside/canary",
    "a\nb\u202e", "1", "NaN", "\udc80", [], {}, [1], [None], {"a": 1}, [[]], {"": None}, "digits", "s3://k:s@b/x",
)  # fmt: skip


def nasty(content: object, rng: Random) -> object:
    """The content of a JSON file with one to three changes at random places."""
    content = json.loads(json.dumps(content))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = _changed(content, rng)
    return content


def _changed(content: object, rng: Random) -> object:
    spots = list(_spots(content))
    if not spots:
        return rng.choice(NASTY)
    parents = sorted({depth for _, _, depth in spots})
    deep = rng.choice(parents)  # each depth as often as another: most values are deep down
    parent, key, _ = rng.choice([spot for spot in spots if spot[2] == deep])
    way = rng.random()
    if way < 0.65:
        parent[key] = rng.choice(NASTY)  # type: ignore[index]
    elif way < 0.8:
        del parent[key]  # type: ignore[attr-defined]
    elif isinstance(parent, dict):
        value = parent.pop(key)
        parent[rng.choice(("", "new", "../x", "a\x1b[2J", str(key) + " ", "0"))] = value
    elif isinstance(parent, list):
        parent += [parent[0]] * rng.choice((1, 2, 100))
    return content


def _spots(content: object, depth: int = 0) -> list[tuple[object, object, int]]:
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    found: list[tuple[object, object, int]] = []
    for key in keys:
        found.append((content, key, depth))
        found += _spots(content[key], depth + 1)  # type: ignore[index]
    return found
