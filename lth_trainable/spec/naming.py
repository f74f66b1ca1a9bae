"""The name of a trial: readable, and with every field that is not at its default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lth_trainable.spec.words import FIELD_WORDS, name_part

# Fields that a name has even where they are at their defaults, wherever they act
COORDINATES = ("dataset", "model", "schedule", "target_sparsity_pct", "rewind_epoch", "rewind_step", "control", "seed")
IMPORTED = "ticket"  # stands in a name where the schedule of other tickets stands


def trial_name(values: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """Such as digits-lenet_300_100-imp-s87.04-r1-seed3: coordinates, then what is not at its default, then the seed.

    values: the fields of a spec; usual: those of `usual_values`.
    """
    return "-".join(
        IMPORTED if name == "schedule" and value is None else name_part(name, value)
        for name, value in named_fields(values, usual).items()
    )


def named_fields(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the name of a trial spells out, in order: its coordinates, what is not at its default, its seed.

    values: the fields of a spec; those left out are not told. The schedule of an imported ticket is None.
    """
    dense = values["control"] == "dense"
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
