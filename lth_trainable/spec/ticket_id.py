"""What a spec says of an imported ticket, whose weights and mask are given, not found. Pure; no torch."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from lth_trainable.errors import bad_value

SHORT = 8  # digits of a digest that a person sees
_TEXT = re.compile(r"(?P<digest>[0-9a-f]{64})(?P<masked>-masked)?(-e(?P<epoch>[1-9]\d*))?")


@dataclass(frozen=True, kw_only=True)
class TicketId:
    """An imported ticket, as `TrialSpec.ticket` has it in text: DIGEST[-masked][-eEPOCH].

    digest: SHA-256 (hex) of its weights and masks. masked: whether its weights outside the mask are all zero, so that
    no dense network can start from them. epoch: of its weights; training starts there on the clock of learning rate and
    data order.
    """

    digest: str
    masked: bool = False
    epoch: int = 0

    def __str__(self) -> str:
        return self.digest + "-masked" * self.masked + (f"-e{self.epoch}" if self.epoch else "")

    @property
    def short(self) -> str:
        """As names of trials have it."""
        return self.digest[:SHORT] + (f".e{self.epoch}" if self.epoch else "")


@functools.lru_cache
def parse_ticket(text: str) -> TicketId:
    """The ticket of this text. Raises `UserError`."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise bad_value("ticket", text, "what --import-ticket makes: DIGEST, with -masked and -eEPOCH where they hold")
    return TicketId(digest=found["digest"], masked=bool(found["masked"]), epoch=int(found["epoch"] or 0))
