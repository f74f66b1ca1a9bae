"""What a trial needs of Ray Tune and Ray does not document: one function for each of them.

`tests/lth_trainable/tune/test_with_ray.py` fails where a new version of Ray has changed one of them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyarrow import fs
from ray import tune

from lth_trainable.store.checkpoint import CHECKPOINT, Content
from lth_trainable.store.store import Store


def store_beside_experiment() -> Store:
    """A store in the folder of the experiment that this trial belongs to, so that its trials share their training."""
    storage = tune.get_context().get_storage()
    folder = f"{storage.experiment_fs_path}/store"
    if isinstance(storage.storage_filesystem, fs.LocalFileSystem):
        return Store(folder)
    return Store.on(storage.storage_filesystem, folder)


def reserved() -> tuple[float, float]:
    """CPUs and GPUs that Tune has reserved for this trial."""
    resources = tune.get_context().get_trial_resources().required_resources
    return float(resources.get("CPU", 1)), float(resources.get("GPU", 0))


@contextlib.contextmanager
def checkpoint(store: Store, content: Content | None) -> Iterator[tune.Checkpoint | None]:
    """A checkpoint to report within this block.

    Ray copies its folder, which has `checkpoint.json` only, and then makes an object of the same class for the copy:
    that one puts the store's files there, as hard links if it can. If Ray did not, the checkpoint would refer to them.
    """
    if content is None:
        yield None
        return
    files = content.files

    class Filled(tune.Checkpoint):
        def __init__(self, path: Any, filesystem: Any = None) -> None:
            super().__init__(path, filesystem)
            if self.path != folder:
                for name, source in files.items():
                    _place(store, source, self.filesystem, f"{self.path}/{name}")

        def __reduce__(self) -> Any:
            """For other processes it is a checkpoint like any other."""
            return tune.Checkpoint, (self.path, self.filesystem)

    with TemporaryDirectory() as folder:
        Path(folder, CHECKPOINT).write_text(json.dumps(content.about))
        yield Filled.from_directory(folder)


def _place(store: Store, source: str, filesystem: fs.FileSystem, target: str) -> None:
    """Put a file of the store at `target`. On an object store, what lies in the store itself only refers to it."""
    full = f"{store.root}/{source}"
    if store.is_local and isinstance(filesystem, fs.LocalFileSystem):
        Path(target).unlink(missing_ok=True)
        try:
            os.link(full, target)
            return
        except FileNotFoundError:  # deleted meanwhile
            return
        except OSError:  # another disk, or one without hard links
            pass
    elif filesystem.equals(store.fs):
        if not target.startswith(f"{store.root}/"):
            filesystem.copy_file(full, target)
        return
    fs.copy_files(full, target, source_filesystem=store.fs, destination_filesystem=filesystem)
