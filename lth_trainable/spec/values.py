"""The valid values of spec fields, and functions of such values. Pure; needs no torch.

The functions take single values, so that validation can use them before there is a spec. `TrialSpec` has properties of
the same names.
"""

from __future__ import annotations

import functools
import hashlib
import json
from fractions import Fraction
from typing import Any

from lth_trainable.pruning.controls import CONTROLS
from lth_trainable.pruning.schedules import SCHEDULES, Prune, Schedule, ScheduleRule, exact
from lth_trainable.registry import lookup

DENSE_RESTARTS = "dense_restarts"
KINDS = ("none", "dense", DENSE_RESTARTS, *CONTROLS)
LAYERS = ("auto", "conv", "linear", "all")
OPTIMIZERS = ("adam", "sgd")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
AUGMENTS = ("none", "flip", "shift", "flip_shift")  # repeated from data/augment.py, which imports torch
LEVEL_RETRAINS = ("weight_rewinding", "lr_rewinding", "fine_tuning")
RETRAINS = (*LEVEL_RETRAINS, "tutorial", "none")
REWIND_OPTIMIZERS = ("restored", "fresh")
RETRAIN_ORDERS = ("same", "new")
OF_CONTROLS = ("control_lr", "sign_flip_pct")  # fields that act in controls only
USUAL_FLIP_PCT = 10.0  # of the control sign_flip
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(content: Any) -> str:
    """Content as JSON in the form that is hashed: sorted keys, no spaces, no NaN."""
    return _CANONICAL.encode(content)


def digest(content: Any) -> str:
    """SHA-256 (hex) of canonical JSON: sorted keys, no spaces, no NaN."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def fraction(percent: float | None) -> Fraction:
    """A percentage as an exact fraction: 87.04 becomes 8704/10000."""
    assert percent is not None
    return exact(percent) / 100


def rule_of(schedule: str | None) -> ScheduleRule:
    """The properties of a schedule. A plug-in is taken as a gradual schedule within one fit."""
    found = lookup("schedule", str(schedule), SCHEDULES)
    return found if isinstance(found, ScheduleRule) else ScheduleRule(function=found)


def family_of(schedule: str | None, control: str) -> str:
    """The kind of trial: "levels" (one fit per level), "fit" (prunes within one fit), "imported" or "dense"."""
    if schedule is None:
        return "dense" if control == "dense" else "imported"
    return rule_of(schedule).family


def make_schedule(
    schedule: str | None, prune_steps: int | None, start_pct: float | None, end_pct: float | None
) -> Schedule:
    """The `Schedule` of a trial that prunes within one fit."""
    make = _own_schedule if schedule in SCHEDULES else _schedule  # a plug-in may be another one when it is asked again
    return make(schedule, prune_steps, start_pct, end_pct)


def _schedule(
    schedule: str | None, prune_steps: int | None, start_pct: float | None, end_pct: float | None
) -> Schedule:
    function = rule_of(schedule).function
    assert function is not None, f"{schedule} prunes between fits"
    if schedule == "iterative":
        function = functools.partial(function, n_steps=prune_steps)
    return Schedule(function, start_pct, end_pct)


# The trials of a grid have few schedules between them, and exact fractions are slow.
_own_schedule = functools.lru_cache(maxsize=1 << 10)(_schedule)


@functools.lru_cache(maxsize=1 << 12)
def prune_events(schedule: Schedule, epochs: int, target_sparsity_pct: float | None) -> tuple[Prune, ...]:
    """The prune events of a fit of this many epochs."""
    return schedule.prunes(epochs, fraction(target_sparsity_pct))


def usual_order(retrain: str | None) -> str:
    """The data order of a level after a prune, if the spec does not say: "same" after a weight rewind, else "new"."""
    return "new" if retrain in ("lr_rewinding", "fine_tuning") else "same"


def rewinds(retrain: str | None, reset_end: bool) -> bool:
    """Whether weights are rewound to an earlier point, after a prune or at the end."""
    return retrain in ("weight_rewinding", "tutorial") or reset_end
