"""Sends an object to an object store, and asks S3 whether it arrived as it was sent.

An upload can go wrong without an error: a bit flips on the way to a server that does not check. And it can go right
with one: the answer to the last request is lost, and to its repetition the server says that it knows no such upload.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from pyarrow import fs

from lth_trainable.errors import StorageError

ATTEMPTS = 3  # to send an object
PART_BYTES = 10 * 2**20  # in which Arrow sends an object; checked by tests/lth_trainable/store/test_upload.py
GARBLED = re.compile(
    "no_?such_?upload|invalid_?part|malformed|digest|checksum|incomplete_?body|mismatch", re.IGNORECASE
)


def upload(filesystem: fs.FileSystem, path: str, content: bytes) -> None:
    """Store `content` as the object at `path`. Raises `OSError`, or `StorageError` if it arrives altered each time."""
    for _ in range(ATTEMPTS):
        garbled = None
        try:
            with filesystem.open_output_stream(path) as stream:
                stream.write(content)
        except OSError as error:
            if not GARBLED.search(str(error)):
                raise
            garbled = error
        if (garbled is None and not isinstance(filesystem, fs.S3FileSystem)) or arrived(filesystem, path, content):
            return
    raise StorageError(
        f"storage: {path}: found that what the server stores is not what was sent, {ATTEMPTS} times; "
        "expected the same bytes; check the network and the server, then run the same command again: what is stored "
        "stays"
    ) from garbled


def arrived(filesystem: fs.FileSystem, path: str, content: bytes) -> bool:
    """Whether the object at `path` is `content`. Raises `OSError` where the server does not say.

    One short request is enough where the object's ETag follows from the MD5 of its parts, as it does on S3 without a
    customer's key for encryption. Otherwise the object is read.
    """
    try:
        with filesystem.open_input_file(path) as file:
            etag = file.metadata().get("ETag", b"").decode().strip('"')
            return etag in _etags(content) or bytes(file.read_at(file.size(), 0)) == content
    except FileNotFoundError:
        return False


def _etags(content: bytes) -> tuple[str, str]:
    """The ETags of an object that was sent in one request, and of one that was sent in parts."""
    parts = [content[begin : begin + PART_BYTES] for begin in range(0, len(content), PART_BYTES)] or [b""]
    of_parts = _md5(b"".join(_md5(part).digest() for part in parts))
    return _md5(content).hexdigest(), f"{of_parts.hexdigest()}-{len(parts)}"


def _md5(content: bytes) -> Any:
    return hashlib.md5(content, usedforsecurity=False)
