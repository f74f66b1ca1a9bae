"""Lottery tickets in fastai, one trial at a time; usable in a notebook without Ray.

`from lth_trainable import *` brings the callback, its schedules and its criteria. Names load when first used, so that
`lth_trainable.spec` and its pure neighbours import no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "sparsify": ("SparsifyCallback",),
    "schedules": (
        "Schedule", "sched_one_shot", "sched_iterative", "sched_agp", "sched_linear", "sched_cosine", "sched_one_cycle",
        "sched_dsd",
    ),
    "criteria": (
        "large_final", "squared_final", "small_final", "random_scores", "large_init", "small_init",
        "large_init_large_final", "small_init_small_final", "magnitude_increase", "movement",
        "updating_magnitude_increase", "updating_movement", "updating_movmag", "wanda", "large_final_same_sign",
    ),
    "spec": ("TrialSpec",),
    "ticket": ("Ticket", "save_ticket", "load_ticket"),
    "store": ("Store", "load_trial"),
    "run": ("run_trial",),
    "errors": ("UserError",),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
