"""LevelHolder: a ticket found level by level. Each level is a fit; between two of them, weights are pruned and rewound.

`SparsifyCallback` is one, so that `find_tickets` and trials step from level to level by these methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lth_trainable.errors import UserError, bad_value
from lth_trainable.pruning.holder import Optimizer, TicketHolder, nothing_removed
from lth_trainable.pruning.layer_targets import Target
from lth_trainable.pruning.layers import unwrapped
from lth_trainable.pruning.levels import Levels
from lth_trainable.pruning.ticket import Ticket


class LevelHolder(TicketHolder):
    """A holder that goes from level to level, if its schedule is `Levels`.

    levels_trained: how many fits have ended, that of the dense network included.
    """

    schedule: Any  # a Schedule, Levels or None
    rewind_epoch: int | None
    verbose: bool

    def __init__(self) -> None:
        super().__init__()
        self.levels_trained = 0

    def next_level(self) -> bool:
        """Between two fits with `Levels`: prune to the next level and rewind.

        Returns False, and changes nothing, if the callback's sparsity is reached.
        """
        target = self._next_target()
        if target is None:
            return False
        if not self.is_as_left:
            raise UserError(
                "next_level: found other weights than the last fit has left; expected those, since a ticket returns to"
                " where they come from; a new fit with the callback, or find_tickets, starts anew from these weights"
            )
        self.prune(target)
        self._print(f"Level {self.level}: pruned to {self._pruner.sparsity_pct:.2f}%")
        self.start_level()
        return True

    def start_level(self) -> int:
        """Go to the start of the present level, and return its epoch: the initial weights, or a rewind."""
        to, epoch = (self.rewind_point, self.rewind_epoch or 0) if self.level else (self.initial, 0)
        assert to is not None
        self.check_own_weights("start_level")
        self._print(f"Resetting Weights to their epoch {epoch} values")
        self.rewind(to, Optimizer.EMPTY if to.optimizer is None else Optimizer.RETURNS)
        return epoch

    def ticket(self) -> Ticket:
        """The ticket that was found: masks, initial, rewind and current weights, provenance.

        With `Levels` also that of the dense network, whose masks keep every weight.
        """
        pruner, initial = self.pruner, self.initial
        if isinstance(self.schedule, Levels) and pruner is not None and initial is not None and not pruner.in_force:
            return self._ticket(pruner, initial, nothing_removed(pruner))
        return super().ticket()

    def state_dict(self) -> dict[str, Any]:
        """What a later fit needs to continue after the last finished epoch, for `torch.save`. Empty before any fit."""
        state = super().state_dict()
        if state and isinstance(self.schedule, Levels):
            points = {"first": self.initial, "rewind_point": self.rewind_point}
            state["optimizers"] = {name: point and point.optimizer for name, point in points.items()}
            state["levels_trained"] = self.levels_trained
        return state

    @property
    def goes_on(self) -> bool:
        """Whether the next fit continues from earlier ones: mask and network are still with the learner, and fit."""
        keeper, learn = self.keeper, self.learn
        if keeper is None or learn is None or keeper.learn is not learn:
            return False
        return unwrapped(learn.model) is unwrapped(self.model_of_fit) and keeper.has_own_weights and self.is_as_left

    @property
    def is_as_left(self) -> bool:
        """Whether nothing but fits has changed the network since the dense level, as far as that is known."""
        return self.keeper is None or self.keeper.is_as_left

    # -- internal ----------------------------------------------------------------------------------------------------

    def _next_target(self) -> Target | None:
        schedule = self.schedule
        if not isinstance(schedule, Levels) or isinstance(self.sparsity, Mapping):
            raise bad_value("next_level: schedule", schedule, "Levels, as in SparsifyCallback(..., Levels())")
        if self.pruner is None:
            raise UserError("next_level: the callback has trained nothing yet; fit a learner with it first")
        if self.rewind_point is None:
            raise UserError(
                f"next_level: the fit ended before epoch {self.rewind_epoch}, to whose start the weights are rewound;"
                " fit more epochs, or give an earlier rewind_epoch"
            )
        return dict(enumerate(schedule.sparsities(self.sparsity))).get(self.level)

    def _resume_from(self, state: Mapping[str, Any]) -> None:
        super()._resume_from(state)
        self.levels_trained = state.get("levels_trained", 0)
        for point, optimizer in state.get("optimizers", {}).items():
            snapshot = {"first": self.initial, "rewind_point": self.rewind_point}[point]
            if snapshot is not None:
                snapshot.optimizer = optimizer

    def _print(self, lines: str) -> None:
        if self.verbose:
            print(lines)
