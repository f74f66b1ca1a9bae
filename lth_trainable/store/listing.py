"""Listing what is below a folder, and reading many files at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pyarrow import fs

from lth_trainable.store.store import Store

READERS = 16  # files read at a time: an object store answers slowly, but many at once
Item = TypeVar("Item")
Answer = TypeVar("Answer")


def listing(store: Store, path: str) -> list[fs.FileInfo]:
    """All that is below `path`. A listing overtaken by a writer is taken again, folder by folder."""
    full = f"{store.root}/{path}".rstrip("/")
    try:
        return list(store.fs.get_file_info(fs.FileSelector(full, recursive=True, allow_not_found=True)))
    except FileNotFoundError:
        folders = store.folders(path)
        here = store.fs.get_file_info([f"{full}/{name}" for name in (*store.sizes(path), *folders)])
        found = [info for info in here if info.type != fs.FileType.NotFound]
        return found + [info for name in folders for info in listing(store, f"{path}/{name}".lstrip("/"))]


def each(function: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    """The function's answers for all items, in their order, `READERS` at a time."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(function, items))
