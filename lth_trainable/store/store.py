"""The store: sealed folders, whose manifest is written last. Results are what the store holds; Ray only schedules.

    <storage>/states/<state key>/<fingerprint>/     training at a point of the plan, shared by all runs
    <storage>/<run>/trials/<trial>/                 record and masks of one finished trial
    <storage>/<run>/{plan.json,analysis/,quarantine/,ray/}

A folder without a valid manifest is treated as absent. Listing checks file sizes and the SHA-256 of the manifest
itself; reading checks the SHA-256 of the file. Local folders, NFS and object stores share one code path (`pyarrow.fs`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs

from lth_trainable.errors import UserError
from lth_trainable.spec.values import digest
from lth_trainable.store.json_files import NotJson, object_from_json, to_json
from lth_trainable.store.upload import upload

MANIFEST = "manifest.json"
RECORD = "record.json"
MASKS = "masks.safetensors"
WEIGHTS = "weights.safetensors"
TRAINING = "training.safetensors"
HISTORY = "history.json"
STATES = "states"
FAILURE = "failure.json"
PLAN = "plan.json"
PART = ".part"
FULL = "no space"  # status of a trial that ended because the storage is full
LISTINGS = 20  # attempts to list a folder while other processes write into it
RETRIES = 3  # attempts to read a folder that seems damaged
FORMAT = 1
_EARLY = {"complete", "files", "fingerprint", "format", "key", "kind", "states", "status", "trial"}
# names in manifests before version 0.4.0, which had no SHA-256 of their own; with another name it is a damaged one
READERS = 16  # threads; an object store answers each request slowly, but many at once
MOST_AT_A_TIME = 64  # items that a thread takes at a time

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Damaged(Exception):
    """Raised for a folder whose files do not match its manifest; `reason` says which file and how."""

    def __init__(self, folder: str, reason: str) -> None:
        super().__init__(f"{folder}: {reason}")
        self.folder, self.reason = folder, reason


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A complete folder. path: within the store. manifest: content of its manifest.json."""

    path: str
    manifest: Mapping[str, Any]


class Store:
    """Sealed folders under one root.

    root: a path, or a URI that `pyarrow.fs` knows (`s3://bucket/prefix`). The query of a URI, such as
    `?endpoint_override=...`, belongs to the connection, so `at` keeps it at the end.
    """

    def __init__(self, root: str | Path) -> None:
        self.as_typed = str(root)
        if "://" in self.as_typed:
            self.fs, self.root = fs.FileSystem.from_uri(self.as_typed)
        else:
            self.fs, self.root = fs.LocalFileSystem(), str(Path(root).expanduser().resolve())
        self.root = self.root.rstrip("/")

    @property
    def uri(self) -> str:
        """The store's path or URI, the same from every working directory."""
        return self.as_typed if "://" in self.as_typed else self.root

    def at(self, path: str) -> str:
        """The full path or URI of `path` in this store, as a user would type it."""
        base, query = split_query(self.as_typed)
        return f"{base.rstrip('/')}/{path}{query}"

    # -- sealed folders ----------------------------------------------------------------------------------------------

    def seal_shared(self, path: str, files: Mapping[str, bytes], about: Mapping[str, Any]) -> Sealed:
        """Like `seal`, for a folder that several runs may write at once with different contents.

        File names contain the start of their SHA-256, so no writer overwrites the files of another. Whichever manifest
        is written last, its files exist.
        """
        sums: dict[str, Any] = {}
        for name, content in sorted(files.items()):
            sha = hashlib.sha256(content).hexdigest()
            stem, _, ending = name.rpartition(".")
            sums[name] = {"size": len(content), "sha256": sha, "file": f"{stem}-{sha[:12]}.{ending}"}
            self.write(f"{path}/{sums[name]['file']}", content)
        manifest = _manifest(about, sums)
        self.write(f"{path}/{MANIFEST}", to_json(manifest))
        return Sealed(path=path, manifest=manifest)

    def seal(self, path: str, files: Mapping[str, bytes], about: Mapping[str, Any]) -> Sealed:
        """Write `files` into the folder `path`, then its manifest with `about` and each file's size and SHA-256.

        A folder that already has this content is left unchanged. Otherwise an old manifest is deleted first, and then
        leftover files. Two writers of the same content do not disturb each other.
        """
        sums = {n: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in sorted(files.items())}
        manifest = _manifest(about, sums)
        present = set(self.sizes(path))
        if MANIFEST in present:
            if self._is_sealed_as(path, manifest):
                return Sealed(path=path, manifest=manifest)
            self.delete(f"{path}/{MANIFEST}")
        for stray in present - set(files) - {MANIFEST}:
            if not stray.endswith(PART):  # another writer may still be working on it
                self.delete(f"{path}/{stray}")
        for name, content in files.items():
            self.write(f"{path}/{name}", content)
        self.write(f"{path}/{MANIFEST}", to_json(manifest))
        return Sealed(path=path, manifest=manifest)

    def _is_sealed_as(self, path: str, manifest: Mapping[str, Any]) -> bool:
        try:
            folder = self.find(path)
        except Damaged:
            return False
        return folder is not None and to_json(folder.manifest) == to_json(manifest)

    def find(self, path: str) -> Sealed | None:
        """The sealed folder at `path`, or None. Raises `Damaged` if the manifest or the file sizes are wrong.

        A folder that seems damaged is read again, because another process may just have sealed it.
        """
        for _ in range(RETRIES - 1):
            with contextlib.suppress(Damaged, FileNotFoundError):
                return self._read_sealed(path)
        return self._read_sealed(path)

    def _read_sealed(self, path: str) -> Sealed | None:
        sizes = self.sizes(path)
        if MANIFEST not in sizes:
            return None
        try:
            manifest = object_from_json(self.read(f"{path}/{MANIFEST}"))
        except NotJson as error:
            raise Damaged(path, f"{MANIFEST} is unreadable ({error})") from error
        reason = damage_by_size(manifest, sizes)
        if reason is not None:
            raise Damaged(path, reason)
        if manifest.get("format", FORMAT) != FORMAT:
            raise UserError(f"{path}: written in format {manifest['format']!r}; this version reads {FORMAT}")
        return Sealed(path=path, manifest=manifest)

    def content(self, folder: Sealed, name: str) -> bytes:
        """The content of one file of a sealed folder. Raises `Damaged` if it is missing or its SHA-256 is wrong.

        What seems damaged is read again, because a bit may have flipped on its way here.
        """
        entry = folder.manifest["files"][name]
        for _ in range(RETRIES):
            try:
                content = self.read(f"{folder.path}/{entry.get('file', name)}")
            except FileNotFoundError as error:
                raise Damaged(folder.path, f"{name} is missing") from error
            if hashlib.sha256(content).hexdigest() == entry["sha256"]:
                return content
        raise Damaged(folder.path, f"{name} does not have the SHA-256 of the manifest")

    def quarantine(self, damage: Damaged, run: str) -> str:
        """Move a damaged folder to the run's quarantine and return its new path.

        Another process may find the same damage at the same time; the folder is moved only once.
        """
        target = f"{run}/quarantine/{Path(damage.folder).name}-{uuid.uuid4().hex[:8]}"
        self.fs.create_dir(self._full(Path(target).parent.as_posix()), recursive=True)
        with contextlib.suppress(FileNotFoundError):
            if isinstance(self.fs, fs.LocalFileSystem):
                self.fs.move(self._full(damage.folder), self._full(target))
            else:  # object stores cannot move folders
                for name in self.sizes(damage.folder):
                    self.write(f"{target}/{name}", self.read(f"{damage.folder}/{name}"))
                self.delete_folder(damage.folder)
        self.write(f"{target}/reason.txt", f"{damage}\n".encode())
        return target

    # -- runs and states ---------------------------------------------------------------------------------------------

    def trial(self, run: str, name: str) -> str:
        return f"{run}/trials/{name}"

    def state(self, key: str, fingerprint: Mapping[str, Any]) -> str:
        """Folder of the state `key` for this fingerprint; bytes are only equal between equal fingerprints."""
        return f"{STATES}/{key}/{fingerprint_id(fingerprint)}"

    def folders(self, path: str) -> list[str]:
        """Names of the folders in `path`, sorted; empty if there is no `path`."""
        return sorted(i.base_name for i in self._list(path) if i.type == fs.FileType.Directory)

    def names(self, path: str) -> set[str]:
        """Names of everything in the folder `path`, whatever it is; empty if there is no `path`."""
        return {info.base_name for info in self._list(path)}

    def walk(self, path: str) -> list[fs.FileInfo]:
        """Everything below `path`. If a writer interferes with the listing, it is repeated folder by folder."""
        full = self._full(path).rstrip("/")
        try:
            return list(self.fs.get_file_info(fs.FileSelector(full, recursive=True, allow_not_found=True)))
        except FileNotFoundError:
            folders = self.folders(path)
            here = self.fs.get_file_info([f"{full}/{name}" for name in (*self.sizes(path), *folders)])
            found = [info for info in here if info.type != fs.FileType.NotFound]
            return found + [info for name in folders for info in self.walk(f"{path}/{name}".lstrip("/"))]

    def present(self, path: str, names: Collection[str]) -> set[str]:
        """Those of `names` that are folders in `path`.

        On a file system each name is looked up, so that the cost for a trial does not grow with the number of stored
        states. An object store answers slowly but lists a thousand names at a time, so there the folder is listed.
        """
        if not isinstance(self.fs, fs.LocalFileSystem):
            return set(names).intersection(self.folders(path))
        infos = self.fs.get_file_info([self._full(f"{path}/{name}") for name in names])
        return {info.base_name for info in infos if info.type == fs.FileType.Directory}

    # -- single files ------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        with self.fs.open_input_file(self._full(path)) as file:  # one request; a stream makes one for each 256 kB
            return bytes(file.read_at(file.size(), 0))

    def read_as(self, path: str, parse: Callable[[bytes], Answer]) -> Answer:
        """The content of a file, as `parse` understands it. Raises `NotJson` where it does not.

        What it refuses is read again, because a bit may have flipped on its way here.
        """
        for _ in range(RETRIES - 1):
            with contextlib.suppress(NotJson):
                return parse(self.read(path))
        return parse(self.read(path))

    def write(self, path: str, content: bytes) -> None:
        """Write a file atomically: to a temporary name, then moved. Object stores are atomic by themselves."""
        full = self._full(path)
        if not isinstance(self.fs, fs.LocalFileSystem):
            upload(self.fs, full, content)
            return
        Path(full).parent.mkdir(parents=True, exist_ok=True)
        target = f"{full}.{uuid.uuid4().hex[:8]}{PART}"
        try:
            with self.fs.open_output_stream(target) as stream:
                stream.write(content)
            self.fs.move(target, full)
        except OSError:  # without the incomplete file, which would keep a full disk full
            Path(target).unlink(missing_ok=True)
            raise

    def exists(self, path: str) -> bool:
        return self.fs.get_file_info(self._full(path)).type != fs.FileType.NotFound

    def delete(self, path: str) -> None:
        """Delete a file, unless another process already has."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_file(self._full(path))

    def delete_folder(self, path: str) -> None:
        """Delete a folder and everything in it, unless another process already has."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_dir(self._full(path))

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}"

    def sizes(self, path: str) -> dict[str, int]:
        """Sizes in bytes of the files in the folder `path`, by name; empty if there is no `path`."""
        return {i.base_name: i.size for i in self._list(path) if i.type == fs.FileType.File}

    def _list(self, path: str) -> list[fs.FileInfo]:
        """The entries of the folder `path`; empty if there is no such folder.

        If another process interferes by creating the folder or moving files, the listing is repeated.
        """
        selector = fs.FileSelector(self._full(path), allow_not_found=True)
        for _ in range(LISTINGS - 1):
            with contextlib.suppress(FileNotFoundError):
                return self.fs.get_file_info(selector)
        return self.fs.get_file_info(selector)


def split_query(path: str) -> tuple[str, str]:
    """A path or URI up to its `?`, and all from there on, which belongs to the connection; empty for a plain path."""
    base, mark, query = path.partition("?") if "://" in path else (path, "", "")
    return base, mark + query


def is_no_space(error: BaseException) -> bool:
    """Whether a write failed because the disk is full or a quota is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def damage_by_size(manifest: Any, sizes: Mapping[str, int]) -> str | None:
    """What is wrong with a folder, judged by its manifest and its file sizes alone; None if nothing is."""
    try:
        expected = {entry.get("file", name): entry["size"] for name, entry in manifest["files"].items()}
        sha = digest({name: value for name, value in manifest.items() if name != "sha256"})
    except (KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is unreadable ({error})"
    is_early = "sha256" not in manifest and set(manifest) <= _EARLY
    if not expected or not (is_early or manifest.get("sha256") == sha):
        return f"{MANIFEST} does not have its own SHA-256"
    for name, size in expected.items():
        if sizes.get(name) != size:
            return f"{name} has {sizes.get(name, 'no')} bytes, {size} expected"
    return None


def _manifest(about: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a manifest, including the SHA-256 of the rest of it."""
    content = {"format": FORMAT, **about, "files": files}
    return {**content, "sha256": digest(content)}


def fingerprint_id(fingerprint: Mapping[str, Any]) -> str:
    """The 12 hex digits that stand for a fingerprint in folder names."""
    return digest(dict(fingerprint))[:12]


def map_in_threads(function: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    """The function's results for all items, in their order, computed in `READERS` threads.

    A thread takes several items at a time: handing over each one alone takes longer than to read a small local file.
    """
    todo = list(items)
    size = max(1, min(MOST_AT_A_TIME, len(todo) // (4 * READERS)))

    def some(start: int) -> list[Answer]:
        return [function(item) for item in todo[start : start + size]]

    with ThreadPoolExecutor(READERS) as pool:
        return [answer for answers in pool.map(some, range(0, len(todo), size)) for answer in answers]
