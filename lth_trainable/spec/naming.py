"""Names of trials: readable, and unique because they contain every field that is not at its default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lth_trainable.spec.words import FIELD_WORDS, name_part

# Fields that are always in a name, even at their defaults, if they have an effect
COORDINATES = frozenset(
    ("dataset", "model", "schedule", "target_sparsity_pct", "rewind_epoch", "rewind_step", "control", "seed")
)
IMPORTED = "ticket"  # in the name of an imported ticket, in place of the schedule


def trial_name(values: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """The name of a trial, such as digits-lenet_300_100-imp-s87.04-r1-seed3.

    values: all fields of a spec. usual: their default values, from `usual_values`.
    """
    return "-".join(
        IMPORTED if name == "schedule" and value is None else name_part(name, value)
        for name, value in named_fields(values, usual).items()
    )


def named_fields(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in the name of a trial, in order: coordinates, fields that are not at their defaults, and the seed.

    Fields missing in `values` are left out. The schedule of an imported ticket is None.
    """
    dense = values["control"] == "dense"
    named = {}
    for name in FIELD_WORDS:
        if name not in values:
            continue
        value = values[name]
        if name not in COORDINATES:
            is_named = value != usual[name]
        elif value is None:
            is_named = name == "schedule" and not dense  # of an imported ticket
        else:
            is_named = name != "control" or value != "none"
        if is_named:
            named[name] = value
    return named
