"""`Draft`: the values of a spec while they are validated, with the checks that many fields share. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from lth_trainable.errors import bad_value, is_finite_number, too_large, unknown_name
from lth_trainable.pruning.schedules import Schedule
from lth_trainable.spec.values import make_schedule

MOST_SEED = 2**63 - 1  # the largest whole number of a column of a table (int64)
MOST = 10**9  # epochs, iterations, images, pixels; the product of two of them is below `MOST_SEED`


class Draft(SimpleNamespace):
    """A copy of the values of a spec that is changed in place until it is canonical: `draft.lr`, `draft.epochs`, ...

    notes: messages about changes that the user should know of.
    """

    notes: list[str]

    def choice(self, name: str, valid: Any) -> None:
        """Raise `UserError` unless the value of this field is one of the valid names."""
        if getattr(self, name) not in valid:
            raise unknown_name(name, getattr(self, name), valid)

    def integer(self, name: str, least: int, most: int = MOST) -> None:
        """Raise `UserError` unless the value of this field is a whole number from `least` to `most`."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise bad_value(name, value, f"a whole number of at least {least}")
        if value > most:
            raise too_large(name, value, most)

    def number(self, name: str, valid: Callable[[float], bool], expected: str) -> None:
        """Raise `UserError` unless the value of this field is finite and valid. An integer becomes a float."""
        value = getattr(self, name)
        finite = is_finite_number(value)
        if not finite or not valid(value):
            raise bad_value(name, value, expected)
        setattr(self, name, float(value) + 0.0)  # -0.0 becomes 0.0: it is the same trial, so it has the same key

    def drop(self, *names: str) -> None:
        """Set fields to None that have no effect."""
        for name in names:
            setattr(self, name, None)

    def schedule_of_fit(self) -> Schedule:
        """The `Schedule` of a trial that prunes within one fit."""
        return make_schedule(self.schedule, self.prune_steps, self.start_pct, self.end_pct)
