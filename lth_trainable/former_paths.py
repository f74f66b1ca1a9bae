"""Where modules of version 0.4 are now, for learners that were exported then: their pickles name the old paths."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "lth_trainable.criteria": "lth_trainable.pruning.criteria",
    "lth_trainable.keep_mask": "lth_trainable.pruning.keep_mask",
    "lth_trainable.layers": "lth_trainable.pruning.layers",
    "lth_trainable.pruner": "lth_trainable.pruning.pruner",
    "lth_trainable.rewind": "lth_trainable.pruning.snapshot",
    "lth_trainable.schedules": "lth_trainable.pruning.schedules",
    "lth_trainable.sparsify": "lth_trainable.pruning.callback",
}


class FormerPaths(MetaPathFinder, Loader):
    """Imports a module of `MOVED` from where it is now; the old path becomes another name of the same module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(MOVED[module.__name__])


def install() -> None:
    """Make the old paths importable in this process."""
    if not any(isinstance(finder, FormerPaths) for finder in sys.meta_path):
        sys.meta_path.insert(0, FormerPaths())
