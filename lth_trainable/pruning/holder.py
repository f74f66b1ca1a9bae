"""TicketHolder: the mask of a learner's network and the weights to return to, with what can be done to them by hand.

`SparsifyCallback` is a holder with a schedule. Trials prune and rewind by the same methods.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fastai.callback.core import Callback

from lth_trainable.errors import UserError
from lth_trainable.pruning.calibration import calibration, check_inputs
from lth_trainable.pruning.criteria import Criterion, name_of, needs_inputs
from lth_trainable.pruning.inventory import Inventory, take_inventory
from lth_trainable.pruning.keep_mask import KeepMask, without_keepers
from lth_trainable.pruning.layer_targets import Sparsity, Target, layers_with_target
from lth_trainable.pruning.layers import LayerType, Selection, prunable_layers, unwrapped
from lth_trainable.pruning.masks_together import Ranker
from lth_trainable.pruning.own_weights import foreign_layers, replaced_layers, unmasked_layers
from lth_trainable.pruning.pruner import MaskedLayers, Pruner, check_criterion
from lth_trainable.pruning.snapshot import Snapshot
from lth_trainable.pruning.ticket import Ticket, state_of
from lth_trainable.pruning.weight_copies import OptimizerCopies
from lth_trainable.stopwatch import part
from lth_trainable.versions import project_version

if TYPE_CHECKING:
    from lth_trainable.pruning.supermask import SupermaskReport


class Optimizer(Enum):
    """What becomes of the optimiser's moments and steps when weights return."""

    RETURNS = "it returns with the weights"
    EMPTY = "it starts without moments"
    GOES_ON = "it keeps its moments"


class TicketHolder(Callback):
    """The mask of a learner's network, and the weights from which it started and to which it is rewound.

    pruner: finds the masks and counts. keeper: the part that stays with the learner and keeps the zeros. initial: every
    tensor at the start. rewind_point: every tensor at the point that weights return to; None before it is reached.
    ranker: see `Pruner`.
    """

    sparsity: Sparsity
    granularity: str
    context: str
    criterion: Criterion
    layer_type: LayerType
    select: Selection
    seed: int
    regrows = False
    ranker: Ranker | None = None

    def __init__(self) -> None:
        super().__init__()
        self.pruner: Pruner | None = None
        self.initial: Snapshot | None = None
        self.rewind_point: Snapshot | None = None
        self.keeper: KeepMask | None = None
        self.n_epochs = 0
        self._learner: Any = None
        self._resume: dict[str, Any] | None = None

    @property
    def learner(self) -> Any:
        """The learner that the callback is with, or was with in its last fit."""
        known = self.learn if self.learn is not None else (self._learner and self._learner())
        if known is None:
            raise UserError(f"{self!r}: it is with no learner yet; fit a learner with it, or learn.add_cb(callback)")
        return known

    @property
    def level(self) -> int:
        """Number of prunes so far."""
        return len(self.pruner.levels) if self.pruner is not None else 0

    @property
    def resumes(self) -> bool:
        """Whether a state has been loaded, from which the next fit continues."""
        return self._resume is not None

    def begin(self, initial: Snapshot | None = None) -> Pruner:
        """Start to hold a mask for the network, from its weights as they are; go on from a mask that it has already.

        initial: a copy of these weights and of the optimiser, if there is one already.
        """
        learn = self.learner
        layers = prunable_layers(learn.model, self.layer_type, self.select)
        layers = layers_with_target(layers, self.sparsity)
        check_criterion(self.criterion, layers)
        if needs_inputs(self.criterion):
            check_inputs(learn.model, layers, calibration(learn.dls))
        inherited = without_keepers(learn)
        self.pruner = Pruner(
            layers, self.criterion, granularity=self.granularity,
            context=self.context, seed=self.seed, regrows=self.regrows,
        )  # fmt: skip
        self.pruner.ranker = self.ranker
        self.remember_learner()
        self.initial, self.rewind_point = initial or Snapshot(unwrapped(learn.model), learn.opt), None
        if self._resume is not None:
            self._resume_from(self._resume)
            self._check_resumed()
            self._resume = None
        elif inherited is not None:
            _inherit(self.pruner, inherited)
        self.keeper = self._new_keeper(self.pruner)
        learn.add_cb(self.keeper)
        return self.pruner

    def remember_learner(self) -> None:
        """Note the learner, its network and its data, for what is asked after the fit, without the callback in it."""
        learn = self.learner
        self._learner, self.model_of_fit, self.dls_of_fit = weakref.ref(learn), learn.model, learn.dls

    @part("pruning")
    def prune(self, target: Target) -> None:
        """Find new masks now and set to zero what they remove. target: a fraction, or one by parameter name."""
        self.check_own_weights("prune")
        learn = self.learner
        self._pruner.prune(target, learn.model, calibration(learn.dls))

    @part("pruning")
    def rewind(self, to: Snapshot | None, optimizer: Optimizer) -> None:
        """Return to the weights and buffers of a snapshot under the present mask; None: stay with the present ones."""
        self.return_to(to, optimizer)
        self._pruner.apply()

    @part("pruning")
    def return_to(self, to: Snapshot | None, optimizer: Optimizer) -> None:
        """Return to the weights and buffers of a snapshot, without the mask; copies of the weights return too."""
        learn = self.learner
        copies = OptimizerCopies(learn.opt, learn.model)
        if to is not None and to.beside is not None:
            if optimizer is Optimizer.GOES_ON:
                to.beside.check_complete(learn)
            to.beside.restore()
        if to is not None:
            to.restore(unwrapped(learn.model), learn.opt if optimizer is Optimizer.RETURNS else None)
        if optimizer is Optimizer.EMPTY:
            learn.opt.clear_state()
        copies.follow()
        if self.keeper is not None:
            self.keeper.left = None

    def check_own_weights(self, where: str) -> None:
        """Raise `UserError` if the network has other weights than those that the mask was found for."""
        keeper = self.keeper
        if keeper is None or keeper.learn is None:
            return
        if foreign_layers(self._pruner, keeper.learn.model) or not keeper.has_own_weights:
            raise keeper.replaced(where, "a new fit with the callback, or find_tickets, starts anew from these weights")

    def release(self) -> None:
        """Stop keeping the zeros: later fits may change every weight again."""
        if self.keeper is not None and self.keeper.learn is not None:
            self.keeper.learn.remove_cb(self.keeper)
        self.keeper = None

    # -- what it has found -------------------------------------------------------------------------------------------

    def inventory(self) -> Inventory:
        """All weights of the network: which can be pruned, and which not and why."""
        return take_inventory(self.model_of_fit, self._pruner.layers, self.layer_type, self.select)

    def plot_layers(self, ax: Any = None) -> Any:
        """Draw the sparsity of each layer under the current mask; returns the axes."""
        from lth_trainable.pruning.plots import plot_layers

        if self.pruner is None:
            raise UserError("plot_layers: the callback has pruned nothing yet; fit a learner with it first")
        return plot_layers(self.pruner, ax)

    def supermask(self) -> SupermaskReport:
        """Evaluate the last fit's mask on the untrained network, beside chance, the majority class and a random mask.

        The network has the weights of `rewind_epoch`; accuracies are on the validation split. After a fit with
        `reset_end=True` the report is printed.
        """
        from lth_trainable.pruning.supermask import supermask_report

        start = (self.rewind_point or self.initial) if self.pruner and self.pruner.in_force is not None else None
        if start is None:
            raise UserError("supermask: the callback has pruned nothing yet; fit a learner with it first")
        model = copy.deepcopy(unwrapped(self.model_of_fit))
        start.restore(model)
        return supermask_report(model, self._pruner, self.dls_of_fit, initial=start.state(), seed=self.seed)

    def ticket(self) -> Ticket:
        """The ticket that was found: masks, initial, rewind and current weights, provenance."""
        pruner, initial = self.pruner, self.initial
        if pruner is None or pruner.in_force is None or initial is None:
            raise UserError("ticket: the callback has pruned nothing yet; fit a learner with it first")
        return self._ticket(pruner, initial, pruner.in_force)

    def state_dict(self) -> dict[str, Any]:
        """What a later fit needs to continue after the last finished epoch, for `torch.save`. Empty before any fit."""
        if self.pruner is None:
            return {}
        pruner = self.pruner
        return {
            "levels": pruner.levels, "asked": pruner.requested_sparsity, "initial": pruner.initial,
            "previous": pruner.previous, "remembered": pruner.last_scores,
            "first": self.initial.state() if self.initial else None,
            "rewind_point": self.rewind_point.state() if self.rewind_point else None,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` in the next fit: `learn.fit(20, start_epoch=7, cbs=callback)`."""
        self._resume = dict(state) or None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the learner's data, which the learner pickles itself."""
        return {**self.__dict__, "dls_of_fit": None, "_learner": None}

    # -- internal ----------------------------------------------------------------------------------------------------

    @property
    def _pruner(self) -> Pruner:
        assert self.pruner is not None, "the callback has not been in a fit yet"
        return self.pruner

    def _new_keeper(self, pruner: Pruner) -> KeepMask:
        return KeepMask(pruner)

    def _resume_from(self, state: Mapping[str, Any]) -> None:
        pruner, model = self._pruner, unwrapped(self.learner.model)
        for masks in state["levels"]:
            pruner.set_mask(masks)  # the weights are those of the last one; applying all would clear regrown weights
        pruner.requested_sparsity = {**pruner.requested_sparsity, **state["asked"]}
        pruner.initial, pruner.previous = state["initial"], state["previous"]
        pruner.last_scores = state["remembered"]
        self.initial = Snapshot.of(model, state["first"])
        self.rewind_point = Snapshot.of(model, state["rewind_point"]) if state["rewind_point"] else None

    def _check_resumed(self) -> None:
        """Raise `UserError` if the network does not have the weights of the callback's state."""
        layers = replaced_layers(self._pruner, self.learner.model)
        if layers:
            raise UserError(
                f"load_state_dict: found other weights in {', '.join(layers)} than those that the callback's state"
                " belongs to; expected the network of the same checkpoint; load its state_dict too, before the fit"
            )

    def _ticket(self, pruner: Pruner, initial: Snapshot, masks: dict[str, Any]) -> Ticket:
        model = unwrapped(self.model_of_fit)
        is_trained = pruner.in_force is None or not unmasked_layers(pruner) or self._is_within_step
        return Ticket(
            masks=masks,
            initial=initial.weights,
            rewind=self.rewind_point.weights if self.rewind_point else {},
            final=state_of(model) if is_trained else {},
            provenance=self._provenance(model),
        )

    @property
    def _is_within_step(self) -> bool:
        """Whether a step was interrupted after the optimiser and before its zeros were set again."""
        return self.keeper is not None and self.keeper.is_within_step

    def _provenance(self, model: Any) -> dict[str, Any]:
        return {
            "model": type(model).__name__,
            "sparsity_asked_pct": self.sparsity,
            "sparsity_pct": self._pruner.sparsity_pct,
            "granularity": self.granularity,
            "context": self.context,
            "criterion": name_of(self.criterion),
            "kept": self._pruner.counts,
            "torch": torch.__version__,
            "code": project_version(),
        }


def _inherit(pruner: Pruner, masked: MaskedLayers) -> None:
    """Start from the mask of an earlier fit, so that what it removed stays removed."""
    if masked.in_force is None:
        return
    if set(masked.in_force) <= set(pruner.counts):
        MaskedLayers.apply_mask(pruner, {**nothing_removed(pruner), **masked.in_force})
        pruner.counts_by_level = [pruner.counts]
        return
    theirs, ours = (", ".join(layer.name for layer in layers) for layers in (masked.layers, pruner.layers))
    warnings.warn(
        f"the mask of layers {theirs} ({masked.sparsity_pct:.2f} % sparse) has ended: the callback prunes other layers"
        f" ({ours}); to keep the zeros, prune the same layers",
        stacklevel=3,
    )


def nothing_removed(masked: MaskedLayers) -> dict[str, Any]:
    """Masks that keep every weight, by parameter name."""
    return {layer.parameter_name: np.ones(tuple(layer.weight.shape), dtype=bool) for layer in masked.layers}
