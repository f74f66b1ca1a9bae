"""What a spec says of an imported ticket, whose weights and mask are given, not found. Pure; no torch."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lth_trainable.errors import bad_value

if TYPE_CHECKING:
    from lth_trainable.spec.trial_spec import TrialSpec

SHORT = 8  # digits of a digest that a person sees
# How the fields of a sparsification stand where its result is given: single weights, counted over all layers together.
GIVEN_FIELDS = {
    "granularity": "weight", "context": "global", "criterion": None, "schedule": None, "prune_rate_pct": None,
    "prune_steps": None, "output_prune_rate_pct": None, "start_pct": None, "end_pct": None,
    "retrain": "weight_rewinding", "rewind_optimizer": None,
}  # fmt: skip
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


def check_ticket(spec: TrialSpec) -> None:
    """Raise `UserError` where the spec's ticket is none, or its weights are of no epoch before the last."""
    given = parse_ticket(str(spec.ticket))
    if given.epoch >= spec.epochs:
        raise bad_value(
            "ticket", str(spec.ticket), f"weights of an epoch before the last ({spec.epochs})",
            "training starts at their epoch, and none would be left; --rewind-epoch 0 trains all of them",
        )  # fmt: skip


def make_given(spec: TrialSpec) -> None:
    """Bring a spec with a ticket to its canonical form, in place: nothing of how a ticket is found acts.

    Raises `UserError` for what asks for it all the same.
    """
    for name, valid, why in (
        ("schedule", (None, "imp"), "its mask is given"),  # imp: the field's default
        ("retrain", ("weight_rewinding", "auto"), "it is trained from the weights that are given"),
        ("reset_end", (False,), "it is trained"),
        ("rewind_step", (None,), "it starts at an epoch"),
    ):
        if getattr(spec, name) not in valid:
            raise bad_value(name, getattr(spec, name), f"{valid[0]} with an imported ticket", why)
    for name, value in GIVEN_FIELDS.items():
        object.__setattr__(spec, name, value)
    object.__setattr__(spec, "rewind_epoch", parse_ticket(str(spec.ticket)).epoch)
