"""The store: folders of files with a manifest written last. It is the truth; Ray only schedules.

    <storage>/states/<state key>/<fingerprint>/     training at a point of the plan, shared by all runs
    <storage>/<run>/trials/<trial>/                 record and masks of one finished trial
    <storage>/<run>/{plan.json,analysis/,quarantine/,ray/}

A folder without a valid manifest does not exist. Listing checks sizes and the manifest's own SHA-256, reading checks
SHA-256. Local folders, NFS and object stores go through one code path (`pyarrow.fs`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs

from lth_trainable.errors import UserError
from lth_trainable.spec.values import digest

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
FULL = "no space"  # status of a trial that ended since the storage is full
LISTINGS = 20  # attempts to list a folder that others are writing
LOOKS = 3  # at a folder that seems damaged
FORMAT = 1
READERS = 16  # files read at a time: an object store answers slowly, but many at once

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Damaged(Exception):
    """A folder whose files are not those of its manifest; `reason` says which and how."""

    def __init__(self, folder: str, reason: str) -> None:
        super().__init__(f"{folder}: {reason}")
        self.folder, self.reason = folder, reason


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A complete folder: its path within the store and the content of its manifest."""

    path: str
    manifest: Mapping[str, Any]


class Store:
    """Sealed folders under one root: a path, or a URI that `pyarrow.fs` knows (`s3://bucket/prefix`).

    What a URI says after its `?`, such as `endpoint_override`, belongs to the connection: `at` keeps it last.
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
        """The path or URI of what is at `path` in this store, as a person would type it."""
        base, query = split_query(self.as_typed)
        return f"{base.rstrip('/')}/{path}{query}"

    # -- sealed folders ----------------------------------------------------------------------------------------------

    def seal_shared(self, path: str, files: Mapping[str, bytes], about: Mapping[str, Any]) -> Sealed:
        """As `seal`, for a folder that several runs may write at once, with contents that need not be equal.

        Files bear part of their SHA-256 in their names, so nobody overwrites another's: whichever manifest comes last,
        its files are there.
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
        """Write `files` into the folder `path`, then its manifest with `about`, sizes and SHA-256.

        A folder that holds just this is left alone; another manifest goes before its files do, and so do leftovers of
        an unsealed attempt. Two writers of the same content do not harm each other.
        """
        sums = {n: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in sorted(files.items())}
        manifest = _manifest(about, sums)
        present = set(self.sizes(path))
        if MANIFEST in present:
            if self._is_sealed_as(path, manifest):
                return Sealed(path=path, manifest=manifest)
            self.delete(f"{path}/{MANIFEST}")
        for stray in present - set(files) - {MANIFEST}:
            if not stray.endswith(PART):  # may be another writer's, at work
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
        """The sealed folder at `path`, None where there is none. Raises `Damaged` when sizes or manifest are off.

        What looks damaged is looked at again: another process may have sealed the folder between listing and reading.
        """
        for _ in range(LOOKS - 1):
            with contextlib.suppress(Damaged, FileNotFoundError):
                return self._look(path)
        return self._look(path)

    def _look(self, path: str) -> Sealed | None:
        sizes = self.sizes(path)
        if MANIFEST not in sizes:
            return None
        try:
            manifest = json.loads(self.read(f"{path}/{MANIFEST}"))
        except ValueError as error:
            raise Damaged(path, f"{MANIFEST} is unreadable ({error})") from error
        if isinstance(manifest, dict) and manifest.get("format", FORMAT) != FORMAT:
            raise UserError(f"{path}: written in format {manifest['format']!r}; this version reads {FORMAT}")
        reason = damage_by_size(manifest, sizes)
        if reason is not None:
            raise Damaged(path, reason)
        return Sealed(path=path, manifest=manifest)

    def content(self, folder: Sealed, name: str) -> bytes:
        """One file of a sealed folder, its SHA-256 checked. Raises `Damaged`."""
        entry = folder.manifest["files"][name]
        try:
            content = self.read(f"{folder.path}/{entry.get('file', name)}")
        except FileNotFoundError as error:
            raise Damaged(folder.path, f"{name} is missing") from error
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise Damaged(folder.path, f"{name} does not have the SHA-256 of the manifest")
        return content

    def quarantine(self, damage: Damaged, run: str) -> str:
        """Set a damaged folder aside under the run's quarantine; returns where it went.

        Another process may find the same damage at the same time: the folder goes once.
        """
        target = f"{run}/quarantine/{Path(damage.folder).name}-{uuid.uuid4().hex[:8]}"
        self.fs.create_dir(self._full(Path(target).parent.as_posix()), recursive=True)
        with contextlib.suppress(FileNotFoundError):
            if isinstance(self.fs, fs.LocalFileSystem):
                self.fs.move(self._full(damage.folder), self._full(target))
            else:  # object stores do not move folders
                for name in self.sizes(damage.folder):
                    self.write(f"{target}/{name}", self.read(f"{damage.folder}/{name}"))
                self.delete_folder(damage.folder)
        self.write(f"{target}/reason.txt", f"{damage}\n".encode())
        return target

    # -- runs and states ---------------------------------------------------------------------------------------------

    def trial(self, run: str, name: str) -> str:
        return f"{run}/trials/{name}"

    def state(self, key: str, fingerprint: Mapping[str, Any]) -> str:
        """Where the state `key` lives for machines of this fingerprint: bytes are equal only within one."""
        return f"{STATES}/{key}/{fingerprint_id(fingerprint)}"

    def folders(self, path: str) -> list[str]:
        """Names of the folders below `path`, sorted; empty where there is no `path`."""
        return sorted(i.base_name for i in self._list(path) if i.type == fs.FileType.Directory)

    def walk(self, path: str) -> list[fs.FileInfo]:
        """All that is below `path`. A listing overtaken by a writer is taken again, folder by folder."""
        full = self._full(path).rstrip("/")
        try:
            return list(self.fs.get_file_info(fs.FileSelector(full, recursive=True, allow_not_found=True)))
        except FileNotFoundError:
            folders = self.folders(path)
            here = self.fs.get_file_info([f"{full}/{name}" for name in (*self.sizes(path), *folders)])
            found = [info for info in here if info.type != fs.FileType.NotFound]
            return found + [info for name in folders for info in self.walk(f"{path}/{name}".lstrip("/"))]

    def present(self, path: str, names: Collection[str]) -> set[str]:
        """Those of `names` that are folders below `path`.

        Each is looked up, so that a trial's cost does not grow with what other trials have stored; an object store
        answers slowly, and lists a thousand at a time.
        """
        if not isinstance(self.fs, fs.LocalFileSystem):
            return set(names).intersection(self.folders(path))
        infos = self.fs.get_file_info([self._full(f"{path}/{name}") for name in names])
        return {info.base_name for info in infos if info.type == fs.FileType.Directory}

    # -- single files ------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        with self.fs.open_input_stream(self._full(path)) as stream:
            return stream.read()

    def write(self, path: str, content: bytes) -> None:
        """Whole or not at all: written beside, then moved (object stores are atomic themselves)."""
        full = self._full(path)
        local = isinstance(self.fs, fs.LocalFileSystem)
        if local:
            Path(full).parent.mkdir(parents=True, exist_ok=True)
        target = f"{full}.{uuid.uuid4().hex[:8]}{PART}" if local else full
        try:
            with self.fs.open_output_stream(target) as stream:
                stream.write(content)
            if local:
                self.fs.move(target, full)
        except OSError:
            if local:  # else a full disk would be kept full by what did not fit on it
                Path(target).unlink(missing_ok=True)
            raise

    def exists(self, path: str) -> bool:
        return self.fs.get_file_info(self._full(path)).type != fs.FileType.NotFound

    def delete(self, path: str) -> None:
        """Delete a file; another process may have been faster."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_file(self._full(path))

    def delete_folder(self, path: str) -> None:
        """Delete a folder with all that is in it; another process may have been faster."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_dir(self._full(path))

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}"

    def sizes(self, path: str) -> dict[str, int]:
        """Bytes of the files in the folder `path`, by name; empty where there is no `path`."""
        return {i.base_name: i.size for i in self._list(path) if i.type == fs.FileType.File}

    def _list(self, path: str) -> list[fs.FileInfo]:
        """What is in the folder `path`; nothing where there is none.

        Another process may be making it or moving files in it: a listing that was overtaken is taken again.
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
    """Whether a write failed since the disk, or what its owner may use of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def damage_by_size(manifest: Any, sizes: Mapping[str, int]) -> str | None:
    """What is wrong with a folder of this manifest and these bytes by file name, if anything; no file is read."""
    try:
        expected = {entry.get("file", name): entry["size"] for name, entry in manifest["files"].items()}
        sha = digest({name: value for name, value in manifest.items() if name != "sha256"})
    except (KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is unreadable ({error})"
    if not expected or manifest.get("sha256", sha) != sha:  # one of an earlier version does not have it
        return f"{MANIFEST} does not have its own SHA-256"
    for name, size in expected.items():
        if sizes.get(name) != size:
            return f"{name} has {sizes.get(name, 'no')} bytes, {size} expected"
    return None


def _manifest(about: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a manifest, with the SHA-256 of all the rest of it."""
    content = {"format": FORMAT, **about, "files": files}
    return {**content, "sha256": digest(content)}


def fingerprint_id(fingerprint: Mapping[str, Any]) -> str:
    """A short name of a fingerprint, for folders."""
    return digest(dict(fingerprint))[:12]


def to_json(content: Any) -> bytes:
    """JSON as every file of the store has it: indented, sorted, no NaN, a newline at the end."""
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def map_in_threads(function: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    """The function's answers for all items, in their order, `READERS` at a time."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(function, items))
