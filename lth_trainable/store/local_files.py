"""Files and folders of a file system, where something unexpected may be in their place: a link, a pipe, a folder."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from pyarrow import fs

from lth_trainable.errors import UserError
from lth_trainable.store.names import check_no_link

FOLDER = "folder"
_ATTEMPTS = 10  # to make a folder that another process removes


class NotAFile(OSError):
    """Raised for a path with something that cannot be read as a file, such as a named pipe."""


def what_is_at(path: str) -> str | None:
    """What is at a path, in a word, without following a link; None if nothing is.

    Raises NotADirectoryError if a file is on the way.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        return FOLDER
    return "symbolic link" if stat.S_ISLNK(mode) else "file" if stat.S_ISREG(mode) else "pipe, socket or device"


def is_folder(path: str) -> bool:
    """Whether a path is a folder, and not a link to one."""
    return what_is_at(path) == FOLDER


def folders_among(folder: str, names: Iterable[str]) -> set[str]:
    """Those of the names that are folders, or links to folders, in a folder."""
    found = set()
    for name in names:
        try:
            mode = os.stat(f"{folder}/{name}").st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISDIR(mode):
            found.add(name)
    return found


def check_file(path: str) -> int:
    """The size in bytes of a file, or of the file that a link leads to. Reading anything else might never end.

    Raises FileNotFoundError, IsADirectoryError, or `NotAFile`.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotAFile(errno.ELOOP, "it is a link that leads to itself", path) from error
        raise
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(found.st_mode):
        raise NotAFile(errno.EINVAL, "it is a pipe, socket or device", path)
    return found.st_size


def read_file(path: str) -> bytes:
    """The content of a file. Raises what `check_file` raises."""
    check_file(path)
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def sizes_in(folder: str) -> dict[str, int]:
    """Sizes in bytes of the files in a folder, by name; empty if there is no such folder.

    A link counts as the file that it leads to, if there is one. Raises FileNotFoundError if another process moves a
    file meanwhile.
    """
    try:
        listed = os.scandir(folder)
    except FileNotFoundError:
        return {}
    with listed as entries:
        found = {entry.name: entry.stat() for entry in entries if _is_file(entry)}
    return {name: one.st_size for name, one in found.items()}


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file or leads to one. Only for a link does this ask the file system once more."""
    return os.path.isfile(entry) if entry.is_symlink() else entry.is_file()  # the latter raises for a link to itself


def check_own(root: str, path: str, expected: str) -> None:
    """Raise `UserError` unless a library that writes to a path itself would write within the storage.

    Such a library follows links, and may wait for ever for a pipe. root: of the storage. path: within it. expected:
    "file" or "folder"; there may be none yet.
    """
    check_no_link(root, path)
    found = what_is_at(f"{root}/{path}")
    if found not in (None, expected):
        raise UserError(f"storage: {root}/{path}: found a {found}; expected a {expected}; move it away")


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, unless they exist. Raises `UserError` if a file is in the place of one.

    Another process may remove the folder at the moment at which it is found to exist; then it is made once more.
    """
    for _ in range(_ATTEMPTS):
        try:
            return folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            if any(os.path.lexists(path) and not path.is_dir() for path in (folder, *folder.parents)):
                raise UserError(f"storage: {folder}: found a file; expected a folder; move the file away") from error
    raise FileNotFoundError(errno.ENOENT, "removed while it was made", str(folder))


def walk(folder: str) -> Iterator[fs.FileInfo]:
    """Everything below a folder; links to folders are not followed.

    A link to a file counts as that file. What is neither file nor folder, and other links, have the type Unknown. What
    another process deletes meanwhile is left out.
    """
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(found.st_mode):
            yield fs.FileInfo(entry.path, fs.FileType.Directory, mtime_ns=found.st_mtime_ns)
            yield from walk(entry.path)
        elif stat.S_ISREG(found.st_mode) or os.path.isfile(entry.path):
            size = os.path.getsize(entry.path) if stat.S_ISLNK(found.st_mode) else found.st_size
            yield fs.FileInfo(entry.path, fs.FileType.File, size=size, mtime_ns=found.st_mtime_ns)
        else:
            yield fs.FileInfo(entry.path, fs.FileType.Unknown, size=0, mtime_ns=found.st_mtime_ns)
