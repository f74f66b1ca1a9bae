"""The point of the dense training whose weights a ticket is rewound to: the start of an epoch, or an iteration."""

from __future__ import annotations

from dataclasses import dataclass

from lth_trainable.errors import bad_value

_ITERATION = "it"  # suffix that tells an iteration from an epoch, as in 500it


@dataclass(frozen=True, kw_only=True)
class RewindPoint:
    """Either a whole epoch or an iteration: the state before update number `iteration` of the trial, from 0 on.

    Epoch 0 is the initialisation. In text, as options and tables have it: "1" is an epoch, "500it" an iteration.
    """

    epoch: int | None = None
    iteration: int | None = None

    def __post_init__(self) -> None:
        assert (self.epoch is None) != (self.iteration is None), "a rewind point is an epoch or an iteration"

    @classmethod
    def parse(cls, text: str) -> RewindPoint:
        """The point of this text; "0it" is epoch 0. Raises `UserError`."""
        number = text.removesuffix(_ITERATION)
        if not number.isdecimal():
            raise bad_value("rewind_epoch", text, 'an epoch number such as 1, or an iteration such as "500it"')
        is_iteration = text.endswith(_ITERATION) and int(number) > 0
        return cls(iteration=int(number)) if is_iteration else cls(epoch=int(number))

    @classmethod
    def of(cls, rewind_epoch: int | None, rewind_step: int | None) -> RewindPoint | None:
        """The point that the two fields of a spec or of a row name; None where nothing is rewound."""
        if rewind_step is not None:
            return cls(iteration=int(rewind_step))
        return None if rewind_epoch is None else cls(epoch=int(rewind_epoch))

    def __str__(self) -> str:
        return str(self.value)

    @property
    def value(self) -> int | str:
        """1 for an epoch, "500it" for an iteration: what options, keys and records hold."""
        return f"{self.iteration}{_ITERATION}" if self.epoch is None else self.epoch

    @property
    def in_words(self) -> str:
        """ "epoch 1" or "iteration 500"."""
        return f"iteration {self.iteration}" if self.epoch is None else f"epoch {self.epoch}"

    def updates_before(self, steps_per_epoch: int) -> int:
        """Number of updates of the weights before this point."""
        if self.iteration is not None:
            return self.iteration
        assert self.epoch is not None
        return self.epoch * steps_per_epoch

    def epoch_at(self, steps_per_epoch: int | None) -> int:
        """The epoch that starts at this point, or in which it lies: 0 for an iteration where the steps are unknown."""
        if self.epoch is not None:
            return self.epoch
        return self.updates_before(steps_per_epoch) // steps_per_epoch if steps_per_epoch else 0


INITIALISATION = RewindPoint(epoch=0)
