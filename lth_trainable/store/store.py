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

from lth_trainable.errors import UserError, refuse_secrets
from lth_trainable.spec.values import digest
from lth_trainable.store.json_files import NotJson, object_from_json, to_json
from lth_trainable.store.local_files import (
    FOLDER,
    NotAFile,
    check_file,
    folders_among,
    is_folder,
    make_folder,
    read_file,
    sizes_in,
    walk,
    what_is_at,
)
from lth_trainable.store.names import check_inside, check_no_link, is_name, is_state
from lth_trainable.store.trouble import GONE, of_storage, storage_error
from lth_trainable.store.upload import upload
from lth_trainable.unfinished import PART

MANIFEST = "manifest.json"
RECORD = "record.json"
MASKS = "masks.safetensors"
WEIGHTS = "weights.safetensors"
TRAINING = "training.safetensors"
HISTORY = "history.json"
STATES = "states"
FAILURE = "failure.json"
PLAN = "plan.json"
OUTAGE_SECONDS = 120.0  # for which a sweep waits for an object store that does not answer
LISTINGS = 20  # attempts to list a folder while other processes write into it
RETRIES = 3  # attempts to read a folder that seems damaged
FORMAT = 1
_EARLY = {"complete", "files", "fingerprint", "format", "key", "kind", "states", "status", "trial"}
# names in manifests before version 0.4.0, which had no SHA-256 of their own; with another name it is a damaged one
LARGEST_JSON = 1 << 30  # bytes; a plan of 30,000 trials has 50 million
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

    If the storage itself fails, every method raises `StorageError`. An `OSError` is about one file: it is missing, or a
    folder is in its place.
    """

    def __init__(self, root: str | Path) -> None:
        self.as_typed = str(root)
        refuse_secrets("storage", self.as_typed)
        if "://" in self.as_typed:
            self.fs, self.root = fs.FileSystem.from_uri(self.as_typed)
        else:
            self.fs, self.root = fs.LocalFileSystem(), str(Path(root).expanduser().resolve())
        self.root = self.root.rstrip("/")
        self.outage_seconds, self._is_in_use = 0.0, False

    @classmethod
    def on(cls, filesystem: fs.FileSystem, root: str) -> Store:
        """The store at this path of an open file system, for instance one with a connection of its own."""
        store = cls.__new__(cls)
        store.fs, store.root, store.as_typed = filesystem, root.rstrip("/"), f"{filesystem.type_name}://{root}"
        store.outage_seconds, store._is_in_use = 0.0, False
        return store

    def in_use(self) -> Store:
        """This store, for as long as a sweep depends on it.

        From now on an object store that does not answer is waited for, and a folder that is gone is not made again.
        """
        self.outage_seconds, self._is_in_use = OUTAGE_SECONDS, True
        return self

    @property
    def is_local(self) -> bool:
        """Whether this is a folder of this machine or of a mounted file system, and not an object store."""
        return isinstance(self.fs, fs.LocalFileSystem)

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
        self._check_folder(path)
        try:
            # before the files are listed: those that it names were written before it
            manifest = object_from_json(self._read_json(f"{path}/{MANIFEST}"))
        except FileNotFoundError:
            return None
        except NotJson as error:
            raise Damaged(path, f"{MANIFEST} is unreadable ({error})") from error
        reason = damage_by_size(manifest, self.sizes(path))
        if reason is not None:
            raise Damaged(path, reason)
        if manifest.get("format", FORMAT) != FORMAT:
            raise UserError(f"{path}: written in format {manifest['format']!r}; this version reads {FORMAT}")
        return Sealed(path=path, manifest=manifest)

    def _check_folder(self, path: str) -> None:
        """Raise `Damaged` if something else is in the place of a sealed folder. A link to a folder is not followed."""
        if self.is_local:
            try:
                found = self._what_is_at(path)
            except NotADirectoryError as error:
                raise Damaged(path.rpartition("/")[0], "it is not a folder") from error
            if found not in (None, FOLDER):
                raise Damaged(path, f"it is a {found}, not a folder")

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
            except (IsADirectoryError, NotAFile) as error:
                raise Damaged(folder.path, f"{name} is not a file") from error
            if hashlib.sha256(content).hexdigest() == entry["sha256"]:
                return content
        raise Damaged(folder.path, f"{name} does not have the SHA-256 of the manifest")

    def json_of(self, folder: Sealed, name: str) -> dict[str, Any]:
        """The object in a JSON file of a sealed folder. Raises `Damaged`."""
        return object_of(folder, name, self.content(folder, name))

    def quarantine(self, damage: Damaged, run: str) -> str:
        """Move a damaged folder to the run's quarantine and return its new path.

        Another process may find the same damage at the same time; the folder is moved only once.
        """
        target = f"{run}/quarantine/{Path(damage.folder).name}-{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(FileNotFoundError):
            if self.is_local:
                self._move(damage.folder, target)
            else:  # object stores cannot move folders
                for name in self.sizes(damage.folder):
                    self.write(f"{target}/{name}", self.read(f"{damage.folder}/{name}"))
                self.delete_folder(damage.folder)
        is_folder_or_gone = not self.is_local or self._what_is_at(target) in (None, FOLDER)
        self.write(f"{target}/reason.txt" if is_folder_or_gone else f"{target}.txt", f"{damage}\n".encode())
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

    @of_storage
    def walk(self, path: str) -> list[fs.FileInfo]:
        """Everything below `path`. Symbolic links to folders, and what is neither file nor folder, have type Unknown.

        On a file system links are not followed, and what another process deletes during the walk is left out.
        """
        full = self._full(path).rstrip("/")
        if self.is_local:
            return list(walk(full))
        return list(self.fs.get_file_info(fs.FileSelector(full, recursive=True, allow_not_found=True)))

    @of_storage
    def present(self, path: str, names: Collection[str]) -> set[str]:
        """Those of `names` that are folders in `path`.

        On a file system each name is looked up, so that the cost for a trial does not grow with the number of stored
        states. An object store answers slowly but lists a thousand names at a time, so there the folder is listed.
        """
        if not self.is_local:
            return set(names).intersection(self.folders(path))
        check_inside("/".join(names))
        return folders_among(self._full(path), names)

    # -- single files ------------------------------------------------------------------------------------------------

    @of_storage
    def read(self, path: str) -> bytes:
        """The content of a file. Raises FileNotFoundError, IsADirectoryError, or `NotAFile` for a pipe or device."""
        full = self._full(path)
        if self.is_local:
            return read_file(full)
        with self.fs.open_input_file(full) as file:  # one request; a stream makes one for each 256 kB
            return bytes(file.read_at(file.size(), 0))

    def read_if_file(self, path: str) -> bytes | None:
        """The content of a file; None if there is none, or something else in its place, such as a folder or a pipe."""
        try:
            return self.read(path)
        except OSError:  # `read` makes an error of its own of what is wrong with the storage
            return None

    def read_as(self, path: str, parse: Callable[[bytes], Answer]) -> Answer:
        """The content of a JSON file, as `parse` understands it. Raises FileNotFoundError, or `NotJson`.

        What it refuses is read again, because a bit may have flipped on its way here.
        """
        for _ in range(RETRIES - 1):
            with contextlib.suppress(NotJson):
                return parse(self._read_json(path))
        return parse(self._read_json(path))

    @of_storage
    def _read_json(self, path: str) -> bytes:
        """The content of a JSON file. Raises FileNotFoundError, or `NotJson` if something else is in its place."""
        try:
            if self.is_local and check_file(self._full(path)) > LARGEST_JSON:
                raise NotJson(f"it has more than {LARGEST_JSON:,} bytes")
            return self.read(path)
        except IsADirectoryError as error:
            raise NotJson("it is a folder") from error
        except (NotAFile, NotADirectoryError) as error:
            raise NotJson("it is not a file") from error

    @of_storage
    def write(self, path: str, content: bytes) -> None:
        """Write a file atomically: to a temporary name, then moved. Object stores are atomic by themselves.

        Raises `UserError` if a folder is in the place of the file, or a file or link in the place of a folder.
        """
        full = self._to_change(path)
        if not self.is_local:
            upload(self.fs, full, content)
            return
        self._make_folder(Path(full).parent)
        if is_folder(full):
            raise UserError(f"storage: {full}: found a folder; expected a file; move the folder away")
        target = f"{full}.{uuid.uuid4().hex[:8]}{PART}"
        try:
            with self.fs.open_output_stream(target) as stream:
                stream.write(content)
            self.fs.move(target, full)
        except OSError:  # without the incomplete file, which would keep a full disk full
            with contextlib.suppress(OSError):  # the first error says why
                Path(target).unlink(missing_ok=True)
            self._check_there()  # it may have vanished since the folder was made
            raise

    def _make_folder(self, folder: Path) -> None:
        """Create a folder, unless there is one."""
        self._check_there()
        make_folder(folder)

    def _check_there(self) -> None:
        """Raise `StorageError` if the storage is in use and its folder is gone; it is not made again."""
        if self._is_in_use and not Path(self.root).is_dir():
            raise storage_error(self.uri, "", GONE)

    @of_storage
    def _move(self, path: str, target: str) -> None:
        """Move a folder of a local store. Raises FileNotFoundError if another process already has."""
        source, into = self._to_change(path), self._to_change(target)
        self._make_folder(Path(into).parent)
        self.fs.move(source, into)

    @of_storage
    def _what_is_at(self, path: str) -> str | None:
        return what_is_at(self._full(path))

    @of_storage
    def exists(self, path: str) -> bool:
        """Whether there is anything at this path. A link that leads to nothing, or to itself, does not count."""
        return self.fs.get_file_info(self._full(path)).type != fs.FileType.NotFound

    @of_storage
    def delete(self, path: str) -> None:
        """Delete a file, or the folder in its place, unless another process already has."""
        full = self._to_change(path)
        with contextlib.suppress(FileNotFoundError):
            if self.is_local and is_folder(full):
                self.fs.delete_dir(full)
            else:
                self.fs.delete_file(full)

    @of_storage
    def delete_folder(self, path: str) -> None:
        """Delete a folder and everything in it, unless another process already has. Links in it are not followed.

        A manifest is deleted first, so that who is just reading the folder finds it absent, not damaged.
        """
        full = self._to_change(path)
        with contextlib.suppress(FileNotFoundError):
            if self.is_local and Path(full).is_symlink():
                Path(full).unlink()
            else:
                if not self.is_local:
                    self.delete(f"{path}/{MANIFEST}")
                elif not is_folder(f"{full}/{MANIFEST}"):
                    Path(full, MANIFEST).unlink(missing_ok=True)
                self.fs.delete_dir(full)

    def _to_change(self, path: str) -> str:
        """The full path of what is written, moved or deleted. Raises `UserError` if a link is on the way to it."""
        full = self._full(path)
        if self.is_local:
            check_no_link(self.root, path)
        return full

    def _full(self, path: str) -> str:
        return f"{self.root}/{check_inside(path)}"

    @of_storage
    def sizes(self, path: str) -> dict[str, int]:
        """Sizes in bytes of the files in the folder `path`, by name; empty if there is no `path`."""
        if self.is_local:
            full = self._full(path)
            return _undisturbed(lambda: sizes_in(full))
        return {i.base_name: i.size for i in self._list(path) if i.type == fs.FileType.File}

    @of_storage
    def _list(self, path: str) -> list[fs.FileInfo]:
        """The entries of the folder `path`; empty if there is no such folder. Raises `UserError` for a file there."""
        full = self._full(path)
        selector = fs.FileSelector(full, allow_not_found=True)
        try:
            return _undisturbed(lambda: self.fs.get_file_info(selector))
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                problem = "found no folder; expected a folder; move away what is there"
                raise UserError(f"storage: {full}: {problem}") from error
            raise


def _undisturbed(listing: Callable[[], Answer]) -> Answer:
    """A listing, repeated if another process interferes by creating the folder or moving files."""
    for _ in range(LISTINGS - 1):
        with contextlib.suppress(FileNotFoundError):
            return listing()
    return listing()


def object_of(folder: Sealed, name: str, content: bytes) -> dict[str, Any]:
    """The object in the content of a JSON file of a sealed folder. Raises `Damaged`."""
    try:
        return object_from_json(content)
    except NotJson as error:
        raise Damaged(folder.path, f"{name} is unreadable ({error})") from error


def split_query(path: str) -> tuple[str, str]:
    """A path or URI up to its `?`, and all from there on, which belongs to the connection; empty for a plain path."""
    base, mark, query = path.partition("?") if "://" in path else (path, "", "")
    return base, mark + query


def damage_by_size(manifest: Any, sizes: Mapping[str, int]) -> str | None:
    """What is wrong with a folder, judged by its manifest and its file sizes alone; None if nothing is."""
    problem = manifest_problem(manifest)
    if problem is not None:
        return problem
    for name, entry in manifest["files"].items():
        file = entry.get("file", name)
        if sizes.get(file) != entry["size"]:
            return f"{file} has {sizes.get(file, 'no')} bytes, {entry['size']} expected"
    return None


def manifest_problem(manifest: Any) -> str | None:
    """What is wrong with a manifest by itself; None if nothing is. Its format is not judged."""
    try:
        sha = digest({name: value for name, value in manifest.items() if name != "sha256"})
        is_early = "sha256" not in manifest and set(manifest) <= _EARLY
        if not (is_early or manifest.get("sha256") == sha):
            return f"{MANIFEST} does not have its own SHA-256"
        files = [(entry.get("file", name), entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()]
        states = list(manifest.get("states", {}).values())
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"{MANIFEST} is unreadable ({error})"
    foreign = [name for name in (*manifest["files"], *(file for file, *_ in files)) if not is_name(name)]
    foreign += [state for state in states if not is_state(state)]
    if foreign:
        return f"{MANIFEST} names {foreign[0]!r}, which is not the name of a file or state in this storage"
    if not files or not all(isinstance(size, int) and isinstance(sha, str) for _, size, sha in files):
        return f"{MANIFEST} is unreadable (it names no files, or not their size and SHA-256)"
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
