"""`TicketId`: how a spec refers to an imported ticket. Needs no torch."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from lth_trainable.errors import bad_value

SHORT = 8  # number of digits of a digest that is shown to people
_TEXT = re.compile(r"(?P<digest>[0-9a-f]{64})(?P<masked>-masked)?(-e(?P<epoch>[1-9]\d*))?")


@dataclass(frozen=True, kw_only=True)
class TicketId:
    """An imported ticket. Its text form, in `TrialSpec.ticket`, is DIGEST[-masked][-eEPOCH].

    digest: SHA-256 (hex) of its weights and masks. masked: whether all weights outside the mask are zero, so that no
    dense network can start from them. epoch: that of its weights; learning rate and data order start at this epoch.
    """

    digest: str
    masked: bool = False
    epoch: int = 0

    def __str__(self) -> str:
        return self.digest + "-masked" * self.masked + (f"-e{self.epoch}" if self.epoch else "")

    @property
    def short(self) -> str:
        """The short form that is used in names of trials."""
        return self.digest[:SHORT] + (f".e{self.epoch}" if self.epoch else "")


@functools.lru_cache
def parse_ticket(text: str) -> TicketId:
    """Read the text form of a ticket. Raises `UserError`."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise bad_value("ticket", text, "the text that --import-ticket writes: DIGEST[-masked][-eEPOCH]")
    return TicketId(digest=found["digest"], masked=bool(found["masked"]), epoch=int(found["epoch"] or 0))
