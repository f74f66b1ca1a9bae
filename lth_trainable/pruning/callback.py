"""SparsifyCallback: prune a network while fastai trains it, and rewind the remaining weights.

    schedule = Schedule(sched_iterative, start_pct=0.25)
    callback = SparsifyCallback(50, 'weight', 'local', large_final, schedule, lth=True, rewind_epoch=1)
    learn.fit(20, 1e-3, cbs=callback)

With a `Schedule`, prunes happen within one fit, at the start of an epoch, before its first batch. With `Levels` each
fit is one level, and `next_level()` prunes and rewinds between two of them; trials run in this way. `validate`,
`get_preds`, `lr_find` and an exception in mid-fit do not change masks or schedule. Masks are stored in the callback,
never in the model's `state_dict`. After the fit a `KeepMask` stays with the learner and keeps the zeros; `release()`
removes it. While the callback is with a learner, it is `learn.sparsify_callback`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lth_trainable.errors import UserError, bad_value
from lth_trainable.pruning.arguments import check_arguments, refuse_foreign
from lth_trainable.pruning.criteria import CRITERIA, Criterion
from lth_trainable.pruning.fit_report import closing, opening
from lth_trainable.pruning.fits import is_dry_run, is_looking, skipped_every_epoch
from lth_trainable.pruning.holder import Optimizer
from lth_trainable.pruning.inventory import take_inventory
from lth_trainable.pruning.keep_mask import KeepMask, SparsityMetric
from lth_trainable.pruning.layer_targets import (
    Sparsity,
    Target,
    layers_with_target,
    plain_sparsity,
    sparsity_falls,
    target_by_epoch,
)
from lth_trainable.pruning.layers import LayerType, Selection, layer_types, prunable_layers, unwrapped
from lth_trainable.pruning.level_holder import LevelHolder
from lth_trainable.pruning.levels import Levels
from lth_trainable.pruning.pruner import MaskedLayers, Pruner
from lth_trainable.pruning.schedules import Schedule, as_schedule
from lth_trainable.pruning.snapshot import Snapshot
from lth_trainable.pruning.weight_copies import CallbackCopies
from lth_trainable.scalars import plain


class SparsifyCallback(LevelHolder):
    """Prune to `sparsity` (lottery tickets: arXiv 1803.03635; rewinding: arXiv 1903.01611).

    sparsity: percent of the weights to remove, more than 0 and less than 100. A dict gives one for each layer name or
    pattern (local context, within one fit); layers that it does not name are not pruned.
    granularity: which weights are removed together, a name of `GRANULARITIES`.
    context: "local" ranks each layer separately, "global" all layers together.
    criteria: the scores to keep weights by, a function of `criteria.py`, its name, or any `f(weights)`.
    schedule: a `Schedule`, its function or its name: at the start of which epochs of one fit to prune, and to which
    sparsity. `Levels`: each fit is a level. None: nothing is pruned but by `prune()`; sparsity may then be 0, a dense
    network.
    lth: after each prune within a fit, every tensor of the model (buffers too) returns to its value at `rewind_epoch`,
    masked. The optimiser, learning rate and data order continue, as in the fastai tutorial. Works with one_shot and
    iterative. With `Levels` everything returns at each level: the optimiser, and the order of resident data, too.
    rewind_epoch: the epoch at whose start the weights to return to are saved; None: weights do not return.
    reset_end: end the fit with the weights of `rewind_epoch` under the final mask: an untrained supermask.
    layer_type: type(s) of layer to prune, or their names; by default all convolutions, or all linear layers if there
    are none.
    layers: pattern(s) of module names, or a predicate f(name, module), to prune fewer layers.
    verbose: print progress and the sparsity report. seed: for the `random` criterion.

    Raises `UserError` at construction or at the start of the fit, before any weight has changed; also for arguments of
    fasterai's callback that this one does not have, with what to use in their place.
    """

    order = 5
    _is_announced = False  # pickles of version 0.4 lack it
    name = "sparsify_callback"  # its place in the learner; fastai would say `sparsify`, which is a method

    def __init__(
        self,
        sparsity: Sparsity,
        granularity: str,
        context: str,
        criteria: Criterion | str,
        schedule: Schedule | Levels | Callable[..., Any] | str | None,
        lth: bool = False,
        rewind_epoch: int | None = 0,
        reset_end: bool = False,
        layer_type: LayerType = None,
        *,
        layers: Selection = None,
        verbose: bool = True,
        seed: int = 0,
        **foreign: Any,
    ) -> None:
        super().__init__()
        refuse_foreign(foreign)
        sparsity, schedule = plain_sparsity(sparsity), as_schedule(schedule)
        rewind_epoch, seed = plain(rewind_epoch), plain(seed)
        check_arguments(
            sparsity, granularity, context, criteria, schedule, lth, rewind_epoch, reset_end, layer_type, seed
        )
        self.sparsity, self.granularity, self.context = sparsity, granularity, context
        self.criterion: Criterion = CRITERIA[criteria] if isinstance(criteria, str) else criteria
        self.schedule, self.lth, self.rewind_epoch, self.reset_end = schedule, lth, rewind_epoch, reset_end
        self.layer_type, self.select, self.verbose, self.seed = layer_types(layer_type), layers, verbose, seed
        self._plan: dict[int, Target] = {}
        self._fitting = self._trained = False
        self._is_announced = False  # a fit has begun and has trained nothing yet
        self._epoch = 0
        self._must_start_at_0 = False

    # -- events of fastai --------------------------------------------------------------------------------------------

    def before_fit(self) -> None:
        if is_dry_run(self.learn):
            self._print("ShortEpochCallback: a dry run, in which nothing is pruned")
        if not is_looking(self.learn):
            self._is_announced = True
            self._show_sparsity(True)  # fastai reads the names of its table's columns now

    def before_train(self) -> None:
        if is_looking(self.learn):
            return
        starts, self._is_announced, earlier = self._is_announced, False, self.keeper
        if starts:
            self._start_fit()
        if not self._in_fit():
            return
        self._epoch, self._trained = self.now, True
        if self._must_start_at_0 and self._epoch > 0:
            raise UserError(
                f"start_epoch: found {self._epoch} without the callback's state; expected load_state_dict() before the"
                " fit, because the weights to rewind to belong to a fit that this callback has not seen"
            )
        self._must_start_at_0 = False
        if self._rewinds and self.level == 0 and self._epoch == self.rewind_epoch and self.rewind_point is None:
            self._save_rewind_point()
        if isinstance(self.schedule, Levels):
            _set_order(self.learn.dls.train, self._epoch)
        if self._epoch in self._plan:
            self._prune(self._plan[self._epoch])
        if starts and self.keeper is not None and self.keeper is not earlier:
            self.keeper.start()  # it has come with this very event, which does not reach it

    def after_epoch(self) -> None:
        if self._in_fit() and self._trained:
            self._trained = False
            self._print(f"Sparsity at the end of epoch {self._epoch}: {self._pruner.sparsity_pct:.2f}%")

    def after_fit(self) -> None:
        if self._is_announced and not is_looking(self.learn):  # `learn.summary()`: nothing has been trained
            self._is_announced = False
            if isinstance(self.schedule, Schedule) and skipped_every_epoch(self.learn):
                self._start_fit()
                assert self.keeper is not None
                self.keeper.start()
                self.finish()
            else:
                self._show_sparsity(self.fitting)
        elif self._in_fit() and not isinstance(self.schedule, Schedule):
            self._fitting, self.levels_trained = False, self.level + 1
            self._show_sparsity(False)

    def finish(self) -> None:
        """End a fit that has a schedule. `KeepMask` calls this after everything else."""
        if not self._in_fit():
            return
        self._fitting = False
        if self.reset_end and self.rewind_point is not None:  # a fit may stop before its rewind epoch
            self.rewind(self.rewind_point, Optimizer.GOES_ON)
            if self._pruner.in_force is not None:
                self.on_ticket()
        self._show_sparsity(False)
        assert self.keeper is not None
        if not self.keeper.settle():  # it has said why
            return
        self.keeper.become_independent(MaskedLayers(self._pruner.layers, self._pruner.in_force))
        if self.verbose:
            print(closing(self._pruner, self.inventory()))
        if self.reset_end and self.verbose and self._pruner.in_force is not None:
            self._print(f"\n{self._judgement()}")

    # -- for the user ------------------------------------------------------------------------------------------------

    def begin(self, initial: Snapshot | None = None) -> Pruner:
        resumes = self.resumes
        pruner = super().begin(initial)
        if self.verbose:
            inventory = self.inventory()
            shares = [] if isinstance(self.schedule, Schedule) else inventory.shares()  # there they end the fit
            print("\n".join([*opening(self.granularity, self.sparsity, inventory), *shares]))
        self.levels_trained = self.levels_trained if resumes else 0
        if self._rewinds and self.initial is not None and not resumes:
            self.initial.beside = CallbackCopies(self.learner)
        if self._rewinds and self.rewind_epoch == 0 and self.rewind_point is None:
            self._save_rewind_point()
        return pruner

    @property
    def now(self) -> int:
        """The epoch that is being trained, counted from the initialisation."""
        return int(self.learn.epoch)

    def plot_schedule(self, n_epochs: int, ax: Any = None) -> Any:
        """Draw the sparsity that a fit of `n_epochs` epochs will follow; returns the axes."""
        from lth_trainable.pruning.plots import plot_schedule

        if not isinstance(self.schedule, Schedule):
            raise bad_value("plot_schedule: schedule", self.schedule, "a Schedule, which prunes within one fit")
        rewind_epoch = self.rewind_epoch if self._rewinds else None
        return plot_schedule(
            self.schedule, n_epochs, self.sparsity, rewind_epoch, ax, lth=self.lth, reset_end=self.reset_end
        )

    # -- internal ----------------------------------------------------------------------------------------------------

    @property
    def fitting(self) -> bool:
        """Whether a fit with this callback is running: started, and neither ended nor interrupted."""
        return self._fitting and self._is_attached()

    def _start_fit(self) -> None:
        """Start when the first epoch does, since `learn.summary()` has the same events before it."""
        try:
            if isinstance(self.schedule, Schedule):
                self._begin_fit(self.schedule)
            elif self.resumes or not self.goes_on:
                self.begin()
        except UserError:
            self._show_sparsity(False)
            raise
        self._fitting, self._epoch, self.n_epochs = True, 0, int(self.n_epoch)
        self.remember_learner()

    def _begin_fit(self, schedule: Schedule) -> None:
        layers = layers_with_target(prunable_layers(self.learn.model, self.layer_type, self.select), self.sparsity)
        self._plan = target_by_epoch(schedule, self.n_epoch, self.sparsity, layers)
        first = min(self._plan)
        if self._rewinds and (self.rewind_epoch or 0) > first:
            raise bad_value("rewind_epoch", self.rewind_epoch, f"an epoch up to the first prune (epoch {first})")
        self.regrows = sparsity_falls(self._plan)
        self._must_start_at_0 = self._rewinds and not self.resumes
        self.begin(Snapshot(unwrapped(self.learn.model)))

    def _is_attached(self) -> bool:
        """Whether the callback is with a learner; an exception in mid-fit removes it."""
        return self.learn is not None

    def _measured_sparsity(self) -> float | None:
        return self.pruner.sparsity_pct if self.fitting and self.pruner else None

    @property
    def _rewinds(self) -> bool:
        return self.rewind_epoch is not None and (self.lth or self.reset_end or isinstance(self.schedule, Levels))

    def _in_fit(self) -> bool:
        return self._fitting and not is_looking(self.learn)

    def _new_keeper(self, pruner: Pruner) -> KeepMask:
        if not isinstance(self.schedule, Schedule):
            return KeepMask(pruner)
        return KeepMask(pruner, on_end=self.finish, is_active=self._is_attached)

    def _save_rewind_point(self) -> None:
        self._print(f"Saving Weights at epoch {self.rewind_epoch}")
        if self.rewind_epoch == 0:
            self.rewind_point = self.initial
            return
        optimizer = self.learner.opt if isinstance(self.schedule, Levels) else None
        self.rewind_point = Snapshot(unwrapped(self.learner.model), optimizer)
        self.rewind_point.beside = CallbackCopies(self.learner)

    def _judgement(self) -> str:
        try:
            return str(self.supermask())
        except UserError as error:  # only a classifier has an accuracy, and others should not fail their fit
            return str(error)

    def _show_sparsity(self, shown: bool) -> None:
        others = [metric for metric in self.learn.metrics if not isinstance(metric, SparsityMetric)]
        own = [SparsityMetric(self._measured_sparsity)] if shown else []
        if shown and self._prunes_little():
            own.append(SparsityMetric(self._share_of_all, "pruned of all"))
        self.learn.metrics = [*others, *own]

    def _prunes_little(self) -> bool:
        """Whether less than half of all weights can be pruned, so that the sparsity alone says little."""
        model = self.learn.model
        try:
            layers = layers_with_target(prunable_layers(model, self.layer_type, self.select), self.sparsity)
        except UserError:  # the start of the training says it
            return False
        return take_inventory(model, layers, self.layer_type, self.select).is_little

    def _share_of_all(self) -> float | None:
        return self.inventory().pruned_pct(self._pruner.n_kept) if self.fitting and self.pruner else None

    def _prune(self, sparsity: Target) -> None:
        self.prune(sparsity)
        if self.lth:
            self._print(f"Resetting Weights to their epoch {self.rewind_epoch} values")
            self.rewind(self.rewind_point, Optimizer.GOES_ON)
        if self._epoch == max(self._plan) and not self.reset_end:
            self.on_ticket()

    def on_ticket(self) -> None:
        """Hook for subclasses: the last mask has been found, and any rewind under it is done."""

    def _provenance(self, model: Any) -> dict[str, Any]:
        return {
            **super()._provenance(model),
            "schedule": repr(self.schedule),
            "epochs": self.n_epochs,
            "lth": self.lth,
            "rewind_epoch": self.rewind_epoch,
            "reset_end": self.reset_end,
        }


def _set_order(loader: Any, epoch: int) -> None:
    """Let the loader's next pass have the order of this epoch, if its order follows from the epoch's number."""
    if "epoch" in getattr(loader, "__dict__", {}):
        loader.epoch = epoch
