"""How long a sweep may go on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from lth_trainable.errors import bad_value


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When to stop: `hours` of wall time from now, `epochs` trained by this command. None: no limit."""

    hours: float | None = None
    epochs: int | None = None
    started: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise `UserError` for a limit that is none."""
        if self.hours is not None and not self.hours > 0:
            raise bad_value("max-hours", self.hours, "a positive number of hours, such as 0.5")
        if self.epochs is not None and self.epochs < 1:
            raise bad_value("max-epochs", self.epochs, "at least 1")

    def spent(self, epochs: int) -> str | None:
        """Which limit is reached after `epochs` epochs, by its flag; None while there is time."""
        if self.hours is not None and time.monotonic() - self.started >= 3600 * self.hours:
            return "--max-hours"
        return "--max-epochs" if self.epochs is not None and epochs >= self.epochs else None
