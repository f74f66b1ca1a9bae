"""Keeps decoded images, so that other processes map them into memory instead of decoding again. No torch.

If several processes need the same images at the same time, one decodes them, and the others wait for it.

The folder is `$LTH_CACHE` (or `~/.cache/lottery-sweep`). Each file holds uint8 pixels and their SHA-256; its name is a
hash of everything that decides the pixels.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lth_trainable.data.decoding import Decode, decode_into
from lth_trainable.silence import pulse
from lth_trainable.unfinished import PART, remove_abandoned

CACHE_VARIABLE = "LTH_CACHE"
LOCK = ".lock"
WAIT_SECONDS = 0.1  # between two looks at whether another process is still decoding
SHA = hashlib.sha256().digest_size
_only_kept: ContextVar[bool] = ContextVar("_only_kept", default=False)


class NotKept(Exception):
    """Images are not in the cache, and must not be decoded now."""


@contextlib.contextmanager
def only_kept() -> Iterator[None]:
    """Within this block nothing is decoded, which may take minutes."""
    token = _only_kept.set(True)
    try:
        yield
    finally:
        _only_kept.reset(token)


def kept_or_decoded(name: str, shape: tuple[int, ...], decode: Decode) -> npt.NDArray[np.uint8]:
    """Images of this shape, whose first axis counts them: from the file `name` of the cache, or decoded and kept now.

    decode: see `decode_into`. Within `only_kept` images that are not kept raise `NotKept`.
    """
    found = kept(name, shape)
    if found is None:
        if _only_kept.get():
            raise NotKept(name)
        with alone(name):
            found = kept(name, shape)
            return _decoded(name, shape, decode) if found is None else found
    return found


def _decoded(name: str, shape: tuple[int, ...], decode: Decode) -> npt.NDArray[np.uint8]:
    flat = np.empty(int(np.prod(shape)) + SHA, np.uint8)
    pixels = flat[:-SHA].reshape(shape)
    decode_into(pixels, decode)
    flat[-SHA:] = _sha(flat[:-SHA])
    _keep(cache_folder() / name, flat)
    return pixels


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Only one process at a time is in this block for the file `name` of this cache; the others wait.

    The lock is a file beside it. It ends with its process, and whoever holds it last removes it. Where the cache cannot
    be written, or its file system has no locks, nobody waits, and each process decodes.
    """
    file = cache_folder() / f"{name}{LOCK}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(file)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder has become read-only: the file stays, and harms nobody
            file.unlink(missing_ok=True)  # before another can take it
        os.close(lock)


def _locked(file: Path) -> int:
    """Lock the file, once no other process holds it; returns its number. Raises `OSError` where there are no locks."""
    while True:
        lock = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            while not _is_taken(lock):
                pulse.beat()
                time.sleep(WAIT_SECONDS)
            if _is_at(lock, file):
                return lock
        except OSError:
            os.close(lock)
            raise
        os.close(lock)  # the process before has removed it


def _is_at(lock: int, file: Path) -> bool:
    """Whether the file that is open is still the one with this name."""
    try:
        return os.path.samestat(os.fstat(lock), file.stat())
    except FileNotFoundError:
        return False


def _is_taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def kept(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """Images of this shape from the file `name` of the cache; None if it is missing or damaged."""
    flat = _load_kept(cache_folder() / name, shape)
    return None if flat is None else flat[:-SHA].reshape(shape)


def cache_folder() -> Path:
    """`$LTH_CACHE`, else `~/.cache/lottery-sweep`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path("~/.cache/lottery-sweep")).expanduser()


def _load_kept(file: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """The flat bytes of the images and their SHA-256, memory-mapped; None if the file is missing or damaged."""
    try:
        flat: Any = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(flat, np.ndarray) or flat.dtype != np.uint8 or flat.shape != (int(np.prod(shape)) + SHA,):
        return None
    return np.asarray(flat) if np.array_equal(flat[-SHA:], _sha(flat[:-SHA])) else None


def _sha(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(pixels.data).digest(), np.uint8)


def _keep(file: Path, flat: npt.NDArray[np.uint8]) -> None:
    """Write the cache file under another name, then move it, so that nobody ever reads half a file."""
    unfinished = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(file.parent, f"{glob.escape(file.stem)}????????{PART}")
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=file.stem, suffix=PART, delete=False) as stream:
            unfinished = Path(stream.name)
            np.save(stream, flat, allow_pickle=False)
        os.replace(unfinished, file)
    except OSError as error:  # with a full or read-only disk each process decodes again, but the run continues
        warnings.warn(f"images not cached in {file.parent} ({error}); set {CACHE_VARIABLE}", stacklevel=2)
    finally:
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)


def keep_text(file: Path, text: str) -> None:
    """Write a short text under another name, then move it. Where the disk is full or read-only, nothing is kept."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(file.parent, f"{glob.escape(file.stem)}????????{PART}")
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=file.stem, suffix=PART, delete=False) as stream:
            stream.write(text)
        os.replace(stream.name, file)
    except OSError as error:
        warnings.warn(f"digest not cached in {file.parent} ({error}); set {CACHE_VARIABLE}", stacklevel=2)
