"""The name of a trial: readable, and with every field that is not at its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from lth_trainable.pruning.schedules import SCHEDULES, ScheduleRule
from lth_trainable.registry import lookup
from lth_trainable.spec.learning_rate import LR_POLICIES
from lth_trainable.spec.ticket_id import GIVEN_FIELDS
from lth_trainable.spec.words import FIELD_WORDS, name_part

if TYPE_CHECKING:
    from lth_trainable.spec.trial_spec import TrialSpec

# Fields that a name has even where they are at their defaults, wherever they act
COORDINATES = ("dataset", "model", "schedule", "target_sparsity_pct", "rewind_epoch", "rewind_step", "control", "seed")
IMPORTED = "ticket"  # stands in a name where the schedule of other tickets stands


def trial_name(spec: TrialSpec) -> str:
    """Such as digits-lenet_300_100-imp-s87.04-r1-seed3: coordinates, then what is not at its default, then the seed."""
    values = {f.name: getattr(spec, f.name) for f in fields(spec)}
    return "-".join(
        IMPORTED if name == "schedule" and value is None else name_part(name, value)
        for name, value in named_fields(values).items()
    )


def named_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the name of a trial spells out, in order: its coordinates, what is not at its default, its seed.

    values: the fields of a spec; those left out are not told. The schedule of an imported ticket is None.
    """
    usual, dense = _defaults(values), values["control"] == "dense"
    named = {}
    for name in FIELD_WORDS:
        value = values.get(name)
        if name in COORDINATES:
            imported = name == "schedule" and not dense
            told = name in values and (value is not None or imported) and (name, value) != ("control", "none")
        else:
            told = name in values and value != usual[name]
        if told:
            named[name] = value
    return named


def _defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Field defaults in a trial of this kind: resolved by the schedule, None where they do not act."""
    from lth_trainable.spec.trial_spec import TrialSpec

    defaults = {f.name: f.default for f in fields(TrialSpec) if f.default is not MISSING}
    if values["optimizer"] != "adam":
        defaults |= {"beta2": None, "eps": None}
    policy = LR_POLICIES[values["lr_policy"]]
    defaults |= {"warmup_pct": policy.warmup_pct, "lr_drops": policy.drops, "lr_drop_factor": policy.drop_factor}
    schedule = values["schedule"]
    if schedule is None:
        sparse = ("granularity", "context", "criterion", "prune_rate_pct", "prune_steps", "retrain")
        return defaults | (dict.fromkeys(sparse) if values["control"] == "dense" else GIVEN_FIELDS)
    found = lookup("schedule", schedule, SCHEDULES)
    rule = found if isinstance(found, ScheduleRule) else ScheduleRule(function=found)
    within_fit = rule.family == "fit"
    return defaults | {
        "start_pct": rule.start_pct if within_fit else None,
        "end_pct": rule.end_pct if within_fit else None,
        "prune_rate_pct": defaults["prune_rate_pct"] if schedule == "imp" else None,
        "prune_steps": defaults["prune_steps"] if schedule == "iterative" else None,
        "retrain": "weight_rewinding" if not within_fit else "tutorial" if rule.stepwise else "none",
    }
