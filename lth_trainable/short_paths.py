"""Folders for sockets: the path of a Unix socket has an end at about a hundred bytes, which a long TMPDIR passes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

LONGEST_SOCKET = 103  # bytes in the path of a Unix socket: 107 on Linux, 103 on macOS
SHORT = ("/tmp", "/var/tmp")  # folders for temporary files with short paths
_BELOW = len("/pymp-12345678/listener-12345678")  # what multiprocessing adds


def chosen_folder() -> tuple[str, str]:
    """The folder for temporary files that the user has chosen, or Python's choice, and the variable that names it."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if os.environ.get(name):
            return os.path.abspath(os.environ[name]), name
    return os.path.abspath(tempfile.gettempdir()), "TMPDIR"


def socket_folder(below: int, chosen: str, others: Sequence[str] = SHORT) -> str:
    """`chosen`, if `below` more bytes make no path that is too long for a socket there; else a short folder."""
    if len(os.fsencode(chosen)) + below <= LONGEST_SOCKET:
        return chosen
    return next((folder for folder in others if os.access(folder, os.W_OK | os.X_OK)), others[0])


def keep_sockets_short() -> None:
    """Let the processes that load a user's data have their sockets in a folder with a short path.

    torch passes tensors between them through sockets in multiprocessing's own folder. It is made here once, and
    they inherit it. Large temporary files stay where the user wants them.
    """
    from multiprocessing import util

    usual, own = tempfile.tempdir, os.path.abspath(tempfile.gettempdir())
    short = socket_folder(_BELOW, own)
    if short == own:
        return
    try:
        tempfile.tempdir = short
        util.get_temp_dir()
    finally:
        tempfile.tempdir = usual
