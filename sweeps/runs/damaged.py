"""`states/damaged.json`: the damage that `sweeps.storage check` has found by reading every byte of a storage.

A command that continues a run reads only as much as it can without making the user wait. So it looks at this list too,
and repairs what it needs of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from lth_trainable.store.json_files import NotJson, seal_json, unseal_json
from lth_trainable.store.names import STATE_OR_TEMPORARY
from lth_trainable.store.store import STATES, Store

DAMAGED = f"{STATES}/damaged.json"
FORMAT = 1


def write_damaged(store: Store, paths: Iterable[str]) -> None:
    """Note which folders of states are damaged, or remove the note if none is."""
    listed = sorted({path for path in paths if STATE_OR_TEMPORARY.fullmatch(path)})
    with contextlib.suppress(PermissionError):  # of a storage that cannot be written nothing can be repaired
        if listed:
            store.write(DAMAGED, seal_json({"format": FORMAT, "damaged": listed}))
        elif store.exists(DAMAGED):
            store.delete(DAMAGED)


def read_damaged(store: Store) -> set[str]:
    """Folders of states that `check` has found damaged; empty if there is no note, or if the note itself is damaged."""
    try:
        listed = store.read_as(DAMAGED, unseal_json).get("damaged", [])
    except (FileNotFoundError, NotJson):
        return set()
    return {path for path in listed if isinstance(path, str) and STATE_OR_TEMPORARY.fullmatch(path)}
