"""Checks the arguments of a SparsifyCallback, those of fasterai's callback among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lth_trainable.errors import UserError, bad_value, check_sparsity, check_whole, unknown_name
from lth_trainable.pruning.criteria import ALSO_CALLED, CRITERIA
from lth_trainable.pruning.granularity import GRANULARITIES
from lth_trainable.pruning.layers import layer_types
from lth_trainable.pruning.levels import Levels
from lth_trainable.pruning.masks import CONTEXTS
from lth_trainable.pruning.schedules import Schedule
from lth_trainable.scalars import is_several

# Arguments of fasterai's callback: the value that changes nothing, and what to use here in place of any other.
FOREIGN: dict[str, tuple[Any, str]] = {
    "save_tickets": (False, "save_ticket(callback.ticket(), 'ticket.safetensors') after the fit"),
    "model": (None, "layers= to prune a part of learn.model, such as layers='body.*'"),
    "round_to": (None, "granularity='filter', whose counts are exact; nothing is rounded here"),
    "nm": (False, "granularity='weight'; there is no N:M sparsity here"),
}


def refuse_foreign(given: Mapping[str, Any]) -> None:
    """Raise one `UserError` for all arguments that only fasterai's callback has, and `TypeError` for unknown ones.

    At fasterai's own default such an argument asks for nothing and is accepted.
    """
    for name in given:
        if name not in FOREIGN:
            raise TypeError(f"SparsifyCallback: unexpected argument {name!r}")
    asked = {name: value for name, value in given.items() if value is not FOREIGN[name][0]}
    if asked:
        found = ", ".join(f"{name}={value!r}" for name, value in asked.items())
        remedies = "; ".join(f"for {name} use {FOREIGN[name][1]}" for name in asked)
        raise UserError(
            f"SparsifyCallback: found {found}, which only fasterai's callback has; {remedies} (docs/from_fasterai.md)"
        )


def check_arguments(
    sparsity: Any,
    granularity: str,
    context: str,
    criteria: Any,
    schedule: Any,
    lth: bool,
    rewind_epoch: Any,
    reset_end: bool,
    layer_type: Any,
    seed: Any,
) -> None:
    """Raise `UserError` for a value that no network could make right."""
    by_hand = schedule is None
    for value in sparsity.values() if isinstance(sparsity, Mapping) else [sparsity]:
        if not (by_hand and not is_several(value) and value == 0):
            check_sparsity("sparsity", value)
    if not isinstance(granularity, str) or granularity not in GRANULARITIES:
        raise unknown_name("granularity", granularity, GRANULARITIES)
    if context not in CONTEXTS:
        raise unknown_name("context", context, CONTEXTS)
    if isinstance(sparsity, Mapping) and context == "global":
        raise bad_value("context", context, "'local'", "with a target for each layer there is nothing to rank together")
    if isinstance(criteria, str) and criteria not in CRITERIA:
        raise unknown_name("criteria", criteria, CRITERIA, ALSO_CALLED)
    if not callable(criteria) and not isinstance(criteria, str):
        raise bad_value("criteria", criteria, "a function such as large_final, or its name")
    _check_schedule(sparsity, schedule, lth, reset_end)
    if rewind_epoch is not None:
        check_whole("rewind_epoch", rewind_epoch, 0, " (0: initialisation)")
    layer_types(layer_type)
    check_whole("seed", seed, 0)


def _check_schedule(sparsity: Any, schedule: Any, lth: bool, reset_end: bool) -> None:
    if isinstance(schedule, Schedule):
        if lth and not schedule.rule.stepwise:
            raise UserError(
                f"lth: found True with the schedule {schedule.name}; expected one_shot or iterative. A gradual schedule"
                " prunes at every epoch, so weights reset at each prune would never train; use lth=False"
            )
        return
    if schedule is not None and not isinstance(schedule, Levels):
        raise bad_value(
            "schedule", schedule, "a Schedule, such as Schedule(sched_agp) or agp, or Levels(prune_rate=20)"
        )
    if reset_end:
        raise bad_value(
            "reset_end", True, "False with a schedule of levels", "callback.start_level() resets the weights"
        )
    if isinstance(schedule, Levels) and isinstance(sparsity, Mapping):
        raise bad_value("sparsity", dict(sparsity), "one percentage with a schedule of levels")
