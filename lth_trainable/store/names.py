"""Names that come out of files and become parts of paths: what may be one, and what is refused.

A storage may come from somebody else. A manifest, plan or record in it names files, trials and states; such a name must
be one component of a path below the storage, so that nobody can make a command read, move or delete what is outside.
"""

from __future__ import annotations

import os
import re
from typing import Any

from lth_trainable.errors import UserError

LONGEST = 255  # bytes of a name on the common file systems
STATE = re.compile(r"states/[0-9a-f]{64}/[0-9a-f]{12}")
STATE_OR_TEMPORARY = re.compile(rf"{STATE.pattern}(-passing-[0-9a-f]+)?")
STATE_KEY = re.compile(r"states/[0-9a-f]{64}")


def is_name(text: Any) -> bool:
    """Whether this can be the name of a file or folder: a single component of a path, of printable characters."""
    if not isinstance(text, str) or text in ("", ".", "..") or "/" in text or not text.isprintable():
        return False
    try:
        return len(text.encode()) <= LONGEST
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def is_state(text: Any) -> bool:
    """Whether this is the path of a state's folder, as trials refer to it."""
    return isinstance(text, str) and STATE.fullmatch(text) is not None


def check_inside(path: str) -> str:
    """Return a path within a storage. Raises `UserError` if it leads out of it; no name that was checked does."""
    if path and any(part in ("", ".", "..") or "\0" in part for part in path.split("/")):
        raise UserError(
            f"storage: found the path {path!r}; expected names below the storage; a file there is damaged or was "
            "changed: python -m sweeps.storage check names it"
        )
    return path


def check_no_link(root: str, path: str) -> None:
    """Raise `UserError` if a folder on the way from `root` to a path is a symbolic link.

    Nothing is written, moved or deleted behind a link: it may lead out of the storage. The storage itself may be one.
    """
    at = root
    for part in path.split("/")[:-1]:
        at = f"{at}/{part}"
        if os.path.islink(at):
            raise UserError(
                f"storage: {at}: found a symbolic link; expected a folder, since nothing is written, moved or deleted "
                "behind a link; put the folder itself there. Only the storage may be a link"
            )
