"""SparsifyCallback: prune a network while fastai trains it, and rewind the remaining weights.

    schedule = Schedule(sched_iterative, start_pct=0.25)
    callback = SparsifyCallback(50, 'weight', 'local', large_final, schedule, lth=True, rewind_epoch=1)
    learn.fit(20, 1e-3, cbs=callback)

Prunes happen at the start of an epoch, before its first batch. `validate`, `get_preds`, `lr_find` and an exception in
mid-fit do not change masks or schedule. Masks are stored in the callback, never in the model's `state_dict`. After the
fit a `KeepMask` stays with the learner and keeps the zeros; `release()` removes it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from fastai.callback.core import Callback

from lth_trainable.errors import UserError, bad_value
from lth_trainable.pruning.criteria import CRITERIA, Criterion
from lth_trainable.pruning.keep_mask import KeepMask, SparsityMetric
from lth_trainable.pruning.layer_targets import (
    Sparsity,
    Target,
    check_arguments,
    layers_with_target,
    sparsity_falls,
    target_by_epoch,
)
from lth_trainable.pruning.layers import LayerType, Selection, left_out, prunable_layers, unwrapped
from lth_trainable.pruning.pruner import MaskedLayers, Pruner, calibration, report
from lth_trainable.pruning.schedules import Schedule
from lth_trainable.pruning.snapshot import Snapshot
from lth_trainable.pruning.ticket import Ticket
from lth_trainable.versions import project_version

if TYPE_CHECKING:
    from lth_trainable.pruning.supermask import SupermaskReport


class SparsifyCallback(Callback):
    """Prune to `sparsity` within one fit (lottery tickets: arXiv 1803.03635; rewinding: arXiv 1903.01611).

    sparsity: percent of the weights to remove, more than 0 and less than 100. A dict gives one for each layer name or
    pattern (local context only); layers that it does not name are not pruned.
    granularity: which weights are removed together, a name of `GRANULARITIES`.
    context: "local" ranks each layer separately, "global" all layers together.
    criteria: the scores to keep weights by, a function of `criteria.py` or its name.
    schedule: a `Schedule`; it says at the start of which epochs to prune, and to which sparsity.
    lth: after each prune, every tensor of the model (buffers too) returns to its value at `rewind_epoch`, masked. The
    optimiser, learning rate and data order continue, as in the fastai tutorial. Works with one_shot and iterative.
    reset_end: end the fit with the weights of `rewind_epoch` under the final mask: an untrained supermask.
    layer_type: type(s) of layer to prune; by default all convolutions, or all linear layers if there are none.
    layers: pattern(s) of module names, or a predicate f(name, module), to prune fewer layers.
    verbose: print progress and the sparsity report. seed: for the `random` criterion.

    Raises `UserError` at construction or at the start of the fit, before any weight has changed.
    """

    order = 5

    def __init__(
        self,
        sparsity: Sparsity,
        granularity: str,
        context: str,
        criteria: Criterion | str,
        schedule: Schedule,
        lth: bool = False,
        rewind_epoch: int = 0,
        reset_end: bool = False,
        layer_type: LayerType = None,
        *,
        layers: Selection = None,
        verbose: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_arguments(sparsity, granularity, context, criteria, schedule, lth, rewind_epoch)
        self.sparsity, self.granularity, self.context = sparsity, granularity, context
        self.criterion: Criterion = CRITERIA[criteria] if isinstance(criteria, str) else criteria
        self.schedule, self.lth, self.rewind_epoch, self.reset_end = schedule, lth, rewind_epoch, reset_end
        self.layer_type, self.select, self.verbose, self.seed = layer_type, layers, verbose, seed
        self.pruner: Pruner | None = None
        self.initial: Snapshot | None = None
        self.rewind_point: Snapshot | None = None
        self.keeper: KeepMask | None = None
        self._plan: dict[int, Target] = {}
        self._fitting = self._trained = False
        self._epoch = 0
        self._resume: dict[str, Any] | None = None
        self._must_start_at_0 = False

    # -- events of fastai --------------------------------------------------------------------------------------------

    def before_fit(self) -> None:
        if not self._is_training_fit():
            return
        layers = layers_with_target(prunable_layers(self.learn.model, self.layer_type, self.select), self.sparsity)
        self._plan = target_by_epoch(self.schedule, self.n_epoch, self.sparsity, layers)
        first = min(self._plan)
        if self._rewinds and self.rewind_epoch > first:
            raise bad_value("rewind_epoch", self.rewind_epoch, f"an epoch up to the first prune (epoch {first})")
        inherited = self._release_keeper()
        pruner = Pruner(
            layers, self.criterion, granularity=self.granularity, context=self.context, seed=self.seed,
            regrows=sparsity_falls(self._plan),
        )  # fmt: skip
        self.pruner, self.rewind_point, self._fitting, self._epoch = pruner, None, True, 0
        self.model_of_fit, self.dls_of_fit, self.n_epochs = self.learn.model, self.learn.dls, self.n_epoch
        self.initial = Snapshot(unwrapped(self.learn.model))
        resumes = self._resume is not None
        if self._resume is not None:
            self._resume_from(self._resume)
            self._resume = None
        elif inherited is not None:
            _inherit(pruner, inherited)
        self._must_start_at_0 = self._rewinds and not resumes
        self.keeper = KeepMask(pruner, on_end=self.finish, is_active=self._is_attached)
        self.learn.add_cb(self.keeper)
        self._show_sparsity(True)
        self._print(self._opening())
        if self._rewinds and self.rewind_epoch == 0 and self.rewind_point is None:
            self._save_rewind_point()

    def before_train(self) -> None:
        if not self._in_fit():
            return
        self._epoch, self._trained = self.learn.epoch, True
        if self._must_start_at_0 and self._epoch > 0:
            raise UserError(
                f"start_epoch: found {self._epoch} without the callback's state; expected load_state_dict() before the"
                " fit, because the weights to rewind to belong to a fit that this callback has not seen"
            )
        self._must_start_at_0 = False
        if self._rewinds and self._epoch == self.rewind_epoch and self.rewind_point is None:
            self._save_rewind_point()
        if self._epoch in self._plan:
            self._prune(self._plan[self._epoch])

    def after_epoch(self) -> None:
        if self._in_fit() and self._trained:
            self._trained = False
            self._print(f"Sparsity at the end of epoch {self._epoch}: {self._pruner.sparsity_pct:.2f}%")

    def finish(self) -> None:
        """End the fit. `KeepMask` calls this after everything else."""
        if not self._in_fit():
            return
        self._fitting = False
        if self.reset_end and self.rewind_point is not None:  # a fit may stop before its rewind epoch
            self._reset()
            if self._pruner.in_force is not None:
                self.on_ticket()
        assert self.keeper is not None
        self.keeper.become_independent(MaskedLayers(self._pruner.layers, self._pruner.in_force))
        self._show_sparsity(False)
        self._print(f"Final Sparsity: {self._pruner.sparsity_pct:.2f}%\n\n{report(self._pruner)}")
        if self.reset_end and self.verbose and self._pruner.in_force is not None:
            self._print(f"\n{self._judgement()}")

    # -- for the user ------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the learner's data, which the learner pickles itself."""
        return {**self.__dict__, "dls_of_fit": None}

    def release(self) -> None:
        """Stop keeping the zeros: later fits may change every weight again."""
        if self.keeper is not None and self.keeper.learn is not None:
            self.keeper.learn.remove_cb(self.keeper)
        self.keeper = None

    def plot_schedule(self, n_epochs: int, ax: Any = None) -> Any:
        """Draw the sparsity that a fit of `n_epochs` epochs will follow; returns the axes."""
        from lth_trainable.pruning.plots import plot_schedule

        rewind_epoch = self.rewind_epoch if self._rewinds else None
        return plot_schedule(
            self.schedule, n_epochs, self.sparsity, rewind_epoch, ax, lth=self.lth, reset_end=self.reset_end
        )

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
        """The ticket that the last fit found: masks, initial, rewind and current weights, provenance."""
        pruner, initial = self.pruner, self.initial
        if pruner is None or pruner.in_force is None or initial is None:
            raise UserError("ticket: the callback has pruned nothing yet; fit a learner with it first")
        model = unwrapped(self.model_of_fit)
        return Ticket(
            masks=pruner.in_force,
            initial=initial.weights,
            rewind=self.rewind_point.weights if self.rewind_point else {},
            final={name: tensor.detach().clone() for name, tensor in model.state_dict().items()},
            provenance=self._provenance(model),
        )

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

    # -- internal ----------------------------------------------------------------------------------------------------

    @property
    def fitting(self) -> bool:
        """Whether a fit with this callback is running: started, and neither ended nor interrupted."""
        return self._fitting and self._is_attached()

    def _is_attached(self) -> bool:
        """Whether the callback is with a learner; an exception in mid-fit removes it."""
        return self.learn is not None

    def _measured_sparsity(self) -> float | None:
        return self.pruner.sparsity_pct if self.fitting and self.pruner else None

    @property
    def _rewinds(self) -> bool:
        return self.lth or self.reset_end

    @property
    def _pruner(self) -> Pruner:
        assert self.pruner is not None, "the callback has not been in a fit yet"
        return self.pruner

    def _is_training_fit(self) -> bool:
        """False within lr_find, and within validate and get_preds, which hold the learner's lock even in mid-fit."""
        return not self.learn.lock.locked() and not hasattr(self.learn, "lr_finder")

    def _in_fit(self) -> bool:
        return self._fitting and self._is_training_fit()

    def _opening(self) -> str:
        wanted = f"{self.sparsity:g}%" if not isinstance(self.sparsity, Mapping) else f"{dict(self.sparsity)} %"
        lines = [f"Pruning of {self.granularity} until a sparsity of {wanted}"]
        for layer, reason in left_out(self.learn.model, self.layer_type, self.select):
            lines.append(f"Left out: {layer.name} ({layer.type}), {reason}")
        return "\n".join(lines)

    def _save_rewind_point(self) -> None:
        self._print(f"Saving Weights at epoch {self.rewind_epoch}")
        self.rewind_point = self.initial if self.rewind_epoch == 0 else Snapshot(unwrapped(self.learn.model))

    def _judgement(self) -> str:
        try:
            return str(self.supermask())
        except UserError as error:  # only a classifier has an accuracy, and others should not fail their fit
            return str(error)

    def _show_sparsity(self, shown: bool) -> None:
        others = [metric for metric in self.learn.metrics if not isinstance(metric, SparsityMetric)]
        self.learn.metrics = [*others, SparsityMetric(self._measured_sparsity)] if shown else others

    def _prune(self, sparsity: Target) -> None:
        self._pruner.prune(sparsity, self.learn.model, calibration(self.dls))
        if self.lth:
            self._print(f"Resetting Weights to their epoch {self.rewind_epoch} values")
            self._reset()
        if self._epoch == max(self._plan) and not self.reset_end:
            self.on_ticket()

    def on_ticket(self) -> None:
        """Hook for subclasses: the last mask has been found, and any rewind under it is done."""

    def _reset(self) -> None:
        assert self.rewind_point is not None
        self.rewind_point.restore(unwrapped(self.learn.model))
        self._pruner.apply()

    def _release_keeper(self) -> MaskedLayers | None:
        """Remove masks that earlier fits left with the learner; return the last one whose fit ended, if any."""
        keepers = [cb for cb in self.learn.cbs if isinstance(cb, KeepMask)]
        for keeper in keepers:
            self.learn.remove_cb(keeper)
        finished = [keeper.pruner for keeper in keepers if keeper.is_independent]
        return finished[-1] if finished else None

    def _resume_from(self, state: Mapping[str, Any]) -> None:
        pruner, model = self._pruner, unwrapped(self.learn.model)
        for masks in state["levels"]:
            pruner.set_mask(masks)  # the weights are those of the last one; applying all would clear regrown weights
        pruner.requested_sparsity = {**pruner.requested_sparsity, **state["asked"]}
        pruner.initial, pruner.previous = state["initial"], state["previous"]
        pruner.last_scores = state["remembered"]
        self.initial = Snapshot.of(model, state["first"])
        self.rewind_point = Snapshot.of(model, state["rewind_point"]) if state["rewind_point"] else None

    def _provenance(self, model: Any) -> dict[str, Any]:
        return {
            "model": type(model).__name__,
            "sparsity_asked_pct": self.sparsity,
            "sparsity_pct": self._pruner.sparsity_pct,
            "granularity": self.granularity,
            "context": self.context,
            "criterion": self.criterion.__name__,
            "schedule": repr(self.schedule),
            "epochs": self.n_epochs,
            "lth": self.lth,
            "rewind_epoch": self.rewind_epoch,
            "reset_end": self.reset_end,
            "kept": self._pruner.counts,
            "torch": torch.__version__,
            "code": project_version(),
        }

    def _print(self, lines: str) -> None:
        if self.verbose:
            print(lines)


def _inherit(pruner: Pruner, masked: MaskedLayers) -> None:
    """Start from the mask of an earlier fit, so that what it removed stays removed."""
    if masked.in_force is not None and set(masked.in_force) == set(pruner.counts):
        MaskedLayers.apply_mask(pruner, masked.in_force)
        pruner.counts_by_level = [pruner.counts]
