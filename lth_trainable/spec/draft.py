"""The values of a spec on their way to the canonical form, and the checks that single fields share. Pure; no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from lth_trainable.errors import bad_value, unknown_name
from lth_trainable.pruning.schedules import Schedule
from lth_trainable.spec.values import make_schedule


class Draft(SimpleNamespace):
    """The values of a spec while they are brought to their canonical form: a copy that is changed in place.

    notes: what was changed and is worth telling.
    """

    notes: list[str]

    def choice(self, name: str, valid: Any) -> None:
        """Refuse a value that is none of the valid names."""
        if getattr(self, name) not in valid:
            raise unknown_name(name, getattr(self, name), valid)

    def integer(self, name: str, least: int) -> None:
        """Refuse what is no whole number, or less than `least`."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise bad_value(name, value, f"a whole number of at least {least}")

    def number(self, name: str, valid: Callable[[float], bool], expected: str) -> None:
        """Refuse what is no finite number, or not valid; an integer becomes a float."""
        value = getattr(self, name)
        finite = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
        if not finite or not valid(value):
            raise bad_value(name, value, expected)
        setattr(self, name, float(value))

    def drop(self, *names: str) -> None:
        """None for fields that do not act."""
        for name in names:
            setattr(self, name, None)

    def schedule_of_fit(self) -> Schedule:
        """The `Schedule` of values that prune within one fit."""
        return make_schedule(self.schedule, self.prune_steps, self.start_pct, self.end_pct)
