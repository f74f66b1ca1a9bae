"""A Ray that nobody else can use: a token of its own, sockets on loopback only, a folder that only this user can enter.

Whoever can talk to Ray runs code as its user: Ray hands pickled functions from one process to another. So the Ray of a
local sweep accepts only who knows its token. The token is random, and reaches Ray's processes in their environment,
which only this user and root can read; it is in no file and on no command line. docs/security.md is the user's page.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lth_trainable.errors import UserError
from lth_trainable.safe_text import one_line
from lth_trainable.short_paths import chosen_folder, socket_folder
from sweeps.running.ray_adapter import read_environment_again

PREFIX, RAY, LOCK = "lth-", "r", "lock"  # short, because of the next line
BELOW = len(f"/{PREFIX}12345678/{RAY}/session_2026-11-28_21-39-03_892972_1234567/sockets/plasma_store")


def private_settings() -> dict[str, str]:
    """Environment variables for a Ray that only this process and its children can use, with a new token."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # Ray prefers it to RAY_AUTH_TOKEN_PATH and ~/.ray/auth_token
        "RAY_ENABLE_K8S_TOKEN_AUTH": "0",  # Kubernetes would be asked whether the token is valid
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name: on any system, "no other node can join"
        "RAY_enable_metrics_collection": "0",  # whoever asks for metrics needs no token
    }


@contextlib.contextmanager
def set_for_ray(settings: dict[str, str]) -> Iterator[None]:
    """Set environment variables while Ray starts: for it, and for the processes that it starts.

    Afterwards the environment is as before, so other children of this process (loggers, plug-ins) get no token.
    """
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    read_environment_again()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for Ray's sockets and logs that no other user can enter, removed at the end.

    Ray opens its own folder to everybody (mode 0777); here it is inside one with mode 0700. What a killed process has
    left is removed by the next. Raises `UserError` if no folder can be made.
    """
    base = _base()
    try:
        base.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(base)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise UserError(
            f"ray: found {base}, where no folder can be made ({error.strerror}); expected a folder for temporary files "
            "with free space that you may write to; set RAY_TMPDIR to one"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / RAY
    finally:
        remove(folder)
        os.close(lock)


def _base() -> Path:
    """The folder for temporary files that the user has chosen, if the paths of Ray's sockets are not too long there.

    Says on standard error if it is another one, and why."""
    chosen, variable = chosen_folder()
    usable = chosen if variable == "RAY_TMPDIR" else os.path.abspath(tempfile.gettempdir())
    base = socket_folder(BELOW, usable)
    if base != chosen:
        why = "is too long for the paths of sockets" if usable == chosen else "cannot be written to"
        where = one_line(f"note: {variable} {chosen} {why}; Ray's sockets and logs are in {base} for this command")
        print(where, file=sys.stderr, flush=True)
    return Path(base)


def remove(folder: Path) -> None:
    """Remove what can be removed: a process of Ray's that still ends may write. The rest goes at a later start."""
    shutil.rmtree(folder / RAY, ignore_errors=True)
    if not (folder / RAY).exists():
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(base: Path) -> None:
    """Remove the folders of this user's processes that have ended without doing so: nobody holds their locks."""
    for folder in base.glob(f"{PREFIX}????????"):
        with contextlib.suppress(OSError):  # another process removes it, or still works in it
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(folder)
            finally:
                os.close(lock)
