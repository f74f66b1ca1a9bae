"""Tells errors of the storage from all others: a full disk, a lost mount, S3 that denies access or does not answer.

An error of one file, such as a file that is missing, or a folder in its place, is not the storage's: it stays an
`OSError` and whoever reads the file knows what it means.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from lth_trainable.errors import StorageError
from lth_trainable.safe_text import one_line

Given = ParamSpec("Given")
Answer = TypeVar("Answer")

TROUBLE = "storage trouble"  # status of a trial that ended because the storage failed; its reason is not the trial's
STALE_SECONDS = 1.0  # of trying again: NFS reports a stale file handle if another node has just replaced the file
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 4.0  # between two attempts, doubled each time
EXPECTED = "one that can be read and written"
GO_ON = "then run the same command again: what is stored stays"

_OF_ONE_FILE = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP, errno.ENAMETOOLONG,
    errno.EINVAL, errno.EILSEQ, errno.EBADF, errno.EXDEV, errno.EMLINK,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What is wrong with a storage, in words, and what to do. passes: whether it may end by itself in a while."""

    found: str
    advice: str
    passes: bool = False


_SPACE = Trouble(
    found="no space left", advice="free some space, for instance with `python -m sweeps.storage gc`"
)  # fmt: skip
_QUOTA = Trouble(found="a quota that is used up", advice=_SPACE.advice)
_RIGHTS = Trouble(found="no permission", advice="give this user the right to read and write there")
LOST = "mount it again, or repair the connection to its server"
_KEYS = "renew the credentials (environment variables, ~/.aws/credentials or the role of the machine)"
_LOCAL = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _QUOTA,
    errno.EROFS: Trouble(found="a file system that is read-only", advice="mount it for writing; see the system's log"),
    errno.EIO: Trouble(found="an input/output error", advice="see the system's log; check the disk or its connection"),
    errno.ESTALE: Trouble(found="a stale file handle of a network file system", advice=LOST, passes=True),
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    **dict.fromkeys((errno.ENODEV, errno.ENXIO), Trouble(found="a device that is gone", advice=LOST)),
    errno.ENOTCONN: Trouble(found="a mount that has lost its connection", advice=LOST),
    **dict.fromkeys(
        (errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ECONNREFUSED),
        Trouble(found="a file server that cannot be reached", advice=LOST),
    ),
    errno.ETIMEDOUT: Trouble(found="a file server that does not answer", advice=LOST),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE),
        Trouble(found="too many open files", advice="raise the limit (ulimit -n) or run fewer trials at once"),
    ),
}
_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)
GONE = Trouble(found="no folder any more", advice="mount it again, or put it back")

_AWS = re.compile(
    r"AWS Error (?P<name>[A-Z_]+)(?: \(HTTP status (?P<status>\d+)\))? during \w+ operation: "
    r"(?:Unable to parse ExceptionName: (?P<other>\w+))?"
)
_DENIED = re.compile(
    "ACCESS_?DENIED|INVALID_?ACCESS_?KEY|SIGNATURE|TOKEN|CREDENTIAL|UNRECOGNIZED_?CLIENT|NOT_?AUTHORIZED|UNAUTHORIZED"
    "|REQUEST_?EXPIRED|OPT_?IN|DISABLED|FORBIDDEN",
    re.IGNORECASE,
)
_BUSY = re.compile(
    "NETWORK_CONNECTION|SLOW_?DOWN|SERVICE_?UNAVAILABLE|INTERNAL|TIME_?OUT|THROTTL|TOO_?MANY|BUSY", re.IGNORECASE
)
_FULL = re.compile("STORAGE_?FULL|QUOTA|INSUFFICIENT_?STORAGE|ENTITY_?TOO_?LARGE", re.IGNORECASE)


def trouble_of(error: OSError, is_local: bool) -> Trouble | None:
    """What this error says about the storage; None if it is about one file only. is_local: whether it is a folder."""
    if error.errno in _OF_ONE_FILE or (is_local and error.errno is None):
        return None
    if error.errno in _LOCAL:
        return _LOCAL[error.errno]
    if error.errno is not None:
        return Trouble(found=os.strerror(error.errno).lower(), advice="see the system's log")
    return _of_objects(str(error))


def _of_objects(text: str) -> Trouble:
    """The trouble with an object store. What is not known counts as passing: networks fail in many words."""
    aws = _AWS.search(text)
    name = (aws["other"] or aws["name"]) if aws else ""
    status = int(aws["status"] or 0) if aws else 0
    code = f"S3: {name}" if status == 0 or (aws and aws["other"]) else f"S3: HTTP status {status}"
    if _FULL.search(name) or status == 507:
        return Trouble(found=f"no space left ({code})", advice=_SPACE.advice)
    if re.search("NO_?SUCH_?BUCKET", name, re.IGNORECASE):
        return Trouble(found=f"no bucket of this name ({code})", advice="create it again or correct the URI")
    if "SKEWED" in name.upper():
        return Trouble(found=f"a clock that differs from the server's ({code})", advice="set this machine's clock")
    if status in (500, 502, 503, 504, 429) or _BUSY.search(name):
        advice = "see that the server runs and can be reached from here"
        return Trouble(found=f"a server that does not answer as it should ({code})", advice=advice, passes=True)
    if status in (400, 401, 403) or _DENIED.search(name) or "PERMISSION_DENIED" in text or "UNAUTHENTICATED" in text:
        return Trouble(found=f"access denied ({code})" if aws else "access denied", advice=_KEYS)
    if aws:
        return Trouble(found=f"a request that is refused ({code})", advice="see the URI and its region")
    return Trouble(found="no answer", advice="see that the server runs and can be reached from here", passes=True)


class Place(Protocol):
    """What is known of a storage. outage_seconds: how long an object store that does not answer is waited for."""

    outage_seconds: float

    @property
    def is_local(self) -> bool: ...

    @property
    def uri(self) -> str: ...


Storage = TypeVar("Storage", bound=Place)
Operation = Callable[Concatenate[Storage, str, Given], Answer]


def of_storage(operation: Operation[Storage, Given, Answer]) -> Operation[Storage, Given, Answer]:
    """Decorator of a method of the store that takes a path: an error of the storage becomes a `StorageError`.

    What may pass by itself is tried again for a while, so the method must be one that can be repeated.
    """

    @functools.wraps(operation)
    def tried(store: Storage, path: str, *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        began, pause = time.monotonic(), PAUSE_SECONDS
        while True:
            try:
                return operation(store, path, *args, **kwargs)
            except OSError as error:
                trouble = trouble_of(error, store.is_local)
                if trouble is None:
                    raise
                patience = STALE_SECONDS if store.is_local else store.outage_seconds
                if not trouble.passes or time.monotonic() - began + pause > patience:
                    raise storage_error(store.uri, path, trouble, str(error)) from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    return tried


def storage_error(uri: str, path: str, trouble: Trouble, detail: str = "") -> StorageError:
    """The exception for a storage in trouble, met at this path. detail: the message of the system or server."""
    first = one_line(detail.strip().splitlines()[0]) if detail.strip() else ""
    at = f" at {path}" if path else ""
    why = f" ({first})" if first else ""
    return StorageError(
        one_line(f"storage {uri}: found {trouble.found}{at}{why}; expected {EXPECTED}; {trouble.advice}, {GO_ON}")
    )


def machine_error(error: OSError) -> StorageError | None:
    """The exception for a disk of this machine that fails outside the storage, such as /tmp; None for other errors."""
    if error.errno not in _OF_A_DISK:
        return None
    trouble, at = _LOCAL[error.errno], f" at {error.filename}" if error.filename else ""
    return StorageError(
        f"this machine: found {trouble.found}{at} ({one_line(error)}); expected a disk that can be read and written; "
        f"{trouble.advice}, {GO_ON}"
    )


def ray_error(store: Place, error: OSError) -> StorageError:
    """The exception for an error that Ray met when it wrote its own files into the storage, below RUN/ray."""
    unknown = Trouble(found="an error", advice="see that there is space, and that it can be written")
    return storage_error(store.uri, "RUN/ray", trouble_of(error, store.is_local) or unknown, str(error))
