"""What kill -9 leaves on disk: the files of a folder after each elementary step of an operation.

The operation runs once. Before each step that changes files (create, write, move, delete, make a folder), and at the
end, the files are copied. Such a copy is what a process leaves that is killed at this moment: the system keeps what was
written, and no handler of the process runs any more. From two copies in a row follow those of a process that is killed
half-way through writing a file. So the crash needs no support by the code under test, and nothing in it can hide one.

A storage in S3 is treated alike; there an object appears as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from lth_trainable.store.store import PART, Store
from tests.support.s3 import BUCKET

Files = dict[str, tuple[bytes, int]]  # content and time (ns) by path below the folder; a folder's path ends in "/"
_CHANGES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
_CHANGES_OF_FS = {"open_output_stream", "move", "delete_file", "delete_dir", "create_dir"}


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a killed process leaves. after: the step that was its next one, for messages."""

    after: str
    files: Files

    def restore(self, folder: Path) -> None:
        """Make the folder anew with these files."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for path, (content, time_ns) in self.files.items():
            target = folder / path
            if path.endswith("/"):
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            os.utime(target, ns=(time_ns, time_ns))

    def put(self, prefix: str) -> None:
        """Store these files as objects below a prefix of moto's bucket."""
        for path, (content, _) in self.files.items():
            _bucket().put_object(BUCKET, f"{prefix}/{path}", content)


def left_by_kills(folder: Path, operation: Callable[[], Any], *, halves: bool = True) -> list[Left]:
    """Run an operation on a folder; returns what is left of it if it is killed at any moment, in order.

    The last one is what it leaves if it is not killed. halves: also half-way through each write.
    """
    steps = _Steps(lambda: _files_in(folder))
    with _hooked(steps):
        operation()
    return _distinct(_with_halves(steps.seen) if halves else steps.seen)


def objects_left_by_kills(prefix: str, operation: Callable[[], Any]) -> list[Left]:
    """The same for a storage in moto's bucket, of which every object below `prefix` is a file."""
    steps = _Steps(lambda: _objects_below(prefix))
    with _hooked(steps):
        operation()
    return _distinct(steps.seen)


def step(what: str) -> None:
    """A step that is not seen from Python: for hooks of libraries that write by themselves, such as SQLite."""
    for steps in _watching:
        steps.before(what)


def parts(files: Mapping[str, Any]) -> set[str]:
    """Unfinished files among these paths."""
    return {path for path in files if path.endswith(PART)}


# -- copies ----------------------------------------------------------------------------------------------------------


class _Steps:
    """Copies the files before each step. Those of other threads are not steps of the operation."""

    def __init__(self, look: Callable[[], Files]) -> None:
        self._look, self._thread, self._is_looking = look, threading.get_ident(), False
        self.seen: list[Left] = []

    def before(self, step: str) -> None:
        if threading.get_ident() != self._thread or self._is_looking:
            return
        self._is_looking = True
        try:
            self.seen.append(Left(after=f"before {step}", files=self._look()))
        finally:
            self._is_looking = False


def _files_in(folder: Path) -> Files:
    found: Files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            found[f"{name}/"] = (b"", 0)
        else:
            found[name] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found


def _bucket() -> Any:
    from moto.backends import get_backend
    from moto.core import DEFAULT_ACCOUNT_ID

    return get_backend("s3")[DEFAULT_ACCOUNT_ID]["aws"]


def _objects_below(prefix: str) -> Files:
    keys = _bucket().buckets[BUCKET].keys
    return {name[len(prefix) + 1 :]: (key.value, 0) for name, key in keys.items() if name.startswith(f"{prefix}/")}


def _with_halves(seen: list[Left]) -> list[Left]:
    """With what is left if the process is killed half-way through each write: of what is written half, or nothing."""
    found = []
    for left, then in zip(seen, [*seen[1:], None], strict=True):
        found.append(left)
        known = {content for content, _ in left.files.values()}
        for path, (content, time_ns) in then.files.items() if then is not None else ():
            if not path.endswith("/") and content and content not in known:
                before = left.files.get(path, (b"", 0))[0]
                kept = len(before) if content.startswith(before) else 0  # of a file that is appended to
                found += [
                    Left(
                        after=f"{path} has {n} of {len(content)} bytes",
                        files={**left.files, path: (content[:n], time_ns)},
                    )
                    for n in (kept, (kept + len(content)) // 2)
                ]
    return found


def _distinct(lefts: list[Left]) -> list[Left]:
    """Without what is there twice, since many steps change nothing in the folder; the last one stays the last."""
    found: dict[Any, Left] = {}
    for left in lefts:
        key = frozenset((path, content) for path, (content, _) in left.files.items())
        found.pop(key, None)
        found[key] = left
    return list(found.values())


# -- steps -----------------------------------------------------------------------------------------------------------

_watching: list[_Steps] = []


def _on_event(event: str, given: tuple[Any, ...]) -> None:
    """Python's audit hook: it is called before each operation of the system that Python makes."""
    if _watching and (event in _CHANGES or (event == "open" and _is_for_writing(given))):
        step(f"{event} {given[0]}")


def _is_for_writing(given: tuple[Any, ...]) -> bool:
    flags = given[2] if len(given) > 2 else 0
    return bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


@contextlib.contextmanager
def _hooked(steps: _Steps) -> Iterator[None]:
    if not getattr(_hooked, "is_on", False):  # an audit hook cannot be removed; without steps it does nothing
        sys.addaudithook(_on_event)
        _hooked.is_on = True  # type: ignore[attr-defined]
    make = Store.__init__

    def make_watched(store: Store, root: str | Path) -> None:
        make(store, root)
        store.fs = _WatchedFs(store.fs, steps)  # type: ignore[assignment]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "__init__", make_watched)
        _watching.append(steps)
        try:
            yield
        finally:
            _watching.remove(steps)
            steps.before("its end")


class _WatchedFs:
    """One of Arrow's file systems, whose changes are steps. `isinstance` takes it for what it is."""

    def __init__(self, inner: fs.FileSystem, steps: _Steps) -> None:
        self._inner, self._steps = inner, steps

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._inner)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in _CHANGES_OF_FS:
            return found

        def change(path: str, *given: Any, **more: Any) -> Any:
            if name == "delete_dir":
                self._delete_one_by_one(path)
            self._steps.before(f"{name} {path}")
            return found(path, *given, **more)

        return change

    def _delete_one_by_one(self, path: str) -> None:
        """What Arrow does by itself, in steps."""
        for info in self._inner.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True)):
            if info.type == fs.FileType.File:
                self._steps.before(f"delete_file {info.path}")
                self._inner.delete_file(info.path)
