"""Files and folders that a killed process has left unfinished: nobody completes them, so they can be deleted.

Everything is written under another name and then moved. So an unfinished file is never read; it only takes space.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from pathlib import Path

PART = ".part"
WRITING_SECONDS = 3600.0  # a process may still be writing what has changed since then
_OURS = re.compile(r".+\.[0-9a-f]{8}" + re.escape(PART))


def is_unfinished(name: str) -> bool:
    """Whether this is the name of a file that the store or an archive begins to write under."""
    return _OURS.fullmatch(name) is not None


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Delete what matches the pattern in a folder, if nothing in it has changed for `WRITING_SECONDS`."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # another process deletes it too, or it is not ours: it only takes space
            newest = max(found.lstat().st_mtime for found in (path, *path.rglob("*")))
            if time.time() - newest < WRITING_SECONDS:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
