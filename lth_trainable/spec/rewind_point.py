"""`RewindPoint`: the point of the dense training that the weights of a ticket are rewound to."""

from __future__ import annotations

from dataclasses import dataclass

from lth_trainable.errors import bad_value

MOST_DIGITS = 10
_ITERATION = "it"  # suffix of an iteration, as in 500it


@dataclass(frozen=True, kw_only=True)
class RewindPoint:
    """A point in training: the start of an epoch, or the state before an iteration. Both are counted from 0.

    Epoch 0 is the initialisation. In options and tables, "1" is an epoch and "500it" an iteration.
    """

    epoch: int | None = None
    iteration: int | None = None

    def __post_init__(self) -> None:
        assert (self.epoch is None) != (self.iteration is None), "a rewind point is an epoch or an iteration"

    @classmethod
    def parse(cls, text: str) -> RewindPoint:
        """Read text such as "1" or "500it"; "0it" is epoch 0. Raises `UserError` for any other text."""
        number = text.removesuffix(_ITERATION)
        if not number.isdecimal():
            raise bad_value("rewind_epoch", text, 'an epoch number such as 1, or an iteration such as "500it"')
        if len(number) > MOST_DIGITS:  # Python itself refuses to read more than some thousand
            raise bad_value("rewind_epoch", f"{number[:9]}...", f"a number of at most {MOST_DIGITS} digits")
        is_iteration = text.endswith(_ITERATION) and int(number) > 0
        return cls(iteration=int(number)) if is_iteration else cls(epoch=int(number))

    @classmethod
    def of(cls, rewind_epoch: int | None, rewind_step: int | None) -> RewindPoint | None:
        """The point given by these two fields of a spec or of a table row; None if nothing is rewound."""
        if rewind_step is not None:
            return cls(iteration=int(rewind_step))
        return None if rewind_epoch is None else cls(epoch=int(rewind_epoch))

    def __str__(self) -> str:
        return str(self.value)

    @property
    def value(self) -> int | str:
        """As in options, keys and records: the number of an epoch, or text such as "500it" for an iteration."""
        return f"{self.iteration}{_ITERATION}" if self.epoch is None else self.epoch

    @property
    def in_words(self) -> str:
        """In words: "epoch 1" or "iteration 500"."""
        return f"iteration {self.iteration}" if self.epoch is None else f"epoch {self.epoch}"

    def updates_before(self, steps_per_epoch: int) -> int:
        """Number of weight updates before this point."""
        if self.iteration is not None:
            return self.iteration
        assert self.epoch is not None
        return self.epoch * steps_per_epoch

    def epoch_at(self, steps_per_epoch: int | None) -> int:
        """The epoch that contains this point. For an iteration it is 0 if `steps_per_epoch` is None (unknown)."""
        if self.epoch is not None:
            return self.epoch
        return self.updates_before(steps_per_epoch) // steps_per_epoch if steps_per_epoch else 0


INITIALISATION = RewindPoint(epoch=0)
