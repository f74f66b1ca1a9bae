"""SparsifyCallback: prune a network while fastai trains it, and send the survivors back to where they came from.

    schedule = Schedule(sched_iterative, start_pct=0.25)
    callback = SparsifyCallback(50, 'weight', 'local', large_final, schedule, lth=True, rewind_epoch=1)
    learn.fit(20, 1e-3, cbs=callback)

Prunes fall on epoch boundaries, before the first batch. `validate`, `get_preds`, `lr_find` and an exception in the
middle of a fit leave masks and schedule as they were. Masks live in the callback, never in the model's `state_dict`.
"""

from __future__ import annotations

from fractions import Fraction

from fastai.callback.core import Callback

from lth_trainable.criteria import CRITERIA, Criterion
from lth_trainable.errors import UserError, bad_value, unknown_name
from lth_trainable.granularity import GRANULARITIES
from lth_trainable.masks import CONTEXTS
from lth_trainable.pruner import Pruner, prunable_layers, report
from lth_trainable.rewind import Snapshot
from lth_trainable.schedules import Prune, Schedule, exact
from lth_trainable.spec import check_sparsity


class KeepMask(Callback):
    """Hold the masked weights at exactly zero: before every epoch, before validation and after every step."""

    order = 5

    def __init__(self, pruner: Pruner | None = None) -> None:
        self.pruner = pruner

    def _apply(self) -> None:
        if self.pruner is not None:
            self.pruner.apply()

    def before_train(self) -> None:
        self._apply()

    def after_step(self) -> None:
        self._apply()

    def before_validate(self) -> None:
        self._apply()


class SparsifyCallback(KeepMask):
    """Prune to `sparsity` within one fit (lottery tickets: arXiv 1803.03635; rewinding: arXiv 1903.01611).

    sparsity: per cent of the weights to remove, more than 0 and less than 100.
    granularity, context: what is removed together, and whether layers are ranked separately ("local") or all together
    ("global"); names of `GRANULARITIES` and `CONTEXTS`.
    criteria: scores to keep by, a function of `criteria.py` or its name.
    schedule: a `Schedule`; its prunes happen at the start of their epochs.
    lth: after each prune, every tensor of the model (buffers too) returns to its value of `rewind_epoch`, masked. The
    optimiser, learning rate and data order run on, as in the fastai tutorial. Goes with one_shot and iterative.
    reset_end: end the fit with the weights of `rewind_epoch` under the final mask: an untrained supermask.
    layer_type: type(s) of layer to prune; by default all convolutions, or all linear layers where there are none.
    verbose: print the progress lines and the sparsity report. seed: of the `random` criterion.

    Raises `UserError` when built or at the start of the fit, before any weight has changed.
    """

    def __init__(
        self,
        sparsity: float,
        granularity: str,
        context: str,
        criteria: Criterion | str,
        schedule: Schedule,
        lth: bool = False,
        rewind_epoch: int = 0,
        reset_end: bool = False,
        layer_type: type | tuple[type, ...] | None = None,
        *,
        verbose: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_sparsity("sparsity", sparsity)
        if granularity not in GRANULARITIES:
            raise unknown_name("granularity", granularity, GRANULARITIES)
        if context not in CONTEXTS:
            raise unknown_name("context", context, CONTEXTS)
        if isinstance(criteria, str) and criteria not in CRITERIA:
            raise unknown_name("criteria", criteria, CRITERIA)
        if lth and not schedule.rule.stepwise:
            raise UserError(
                f"lth: found True with the schedule {schedule.name}; expected one_shot or iterative. A gradual schedule"
                " prunes at every epoch, so weights reset at each prune would never train; use lth=False"
            )
        if isinstance(rewind_epoch, bool) or not isinstance(rewind_epoch, int) or rewind_epoch < 0:
            raise bad_value("rewind_epoch", rewind_epoch, "a whole epoch number, 0 or more (0: initialisation)")
        self.sparsity, self.granularity, self.context = sparsity, granularity, context
        self.criterion: Criterion = CRITERIA[criteria] if isinstance(criteria, str) else criteria
        self.schedule, self.lth, self.rewind_epoch, self.reset_end = schedule, lth, rewind_epoch, reset_end
        self.layer_type, self.verbose, self.seed = layer_type, verbose, seed
        self.rewind_point: Snapshot | None = None
        self._plan: dict[int, Prune] = {}
        self._fitting = False
        self._epoch = 0
        self._levels_before = 0

    # -- events of fastai --------------------------------------------------------------------------------------------

    def before_fit(self) -> None:
        if not self._is_training_fit():
            return
        self._plan = {p.epoch: p for p in self.schedule.prunes(self.n_epoch, exact(self.sparsity) / 100)}
        first = min(self._plan)
        if self._rewinds and self.rewind_epoch > first:
            raise bad_value("rewind_epoch", self.rewind_epoch, f"an epoch up to the first prune (epoch {first})")
        self._take_model()
        self.rewind_point, self._fitting, self._epoch = None, True, 0
        self._say(f"Pruning of {self.granularity} until a sparsity of {self.sparsity:g}%")
        if self.rewind_epoch == 0:
            self._save_rewind_point()

    def before_epoch(self) -> None:
        if not self._in_fit():
            return
        self._epoch = self.learn.epoch
        if self._epoch == self.rewind_epoch and self.rewind_point is None:
            self._save_rewind_point()
        if self._epoch in self._plan:
            self._prune(self._plan[self._epoch].sparsity)

    def after_epoch(self) -> None:
        if self._in_fit():
            self._say(f"Sparsity at the end of epoch {self._epoch}: {self._pruner.sparsity_pct:.2f}%")

    def after_fit(self) -> None:
        if not self._in_fit():
            return
        self._fitting = False
        if self.reset_end:
            self._reset()
        self._say(f"Final Sparsity: {self._pruner.sparsity_pct:.2f}%\n\n{report(self._pruner)}")

    # -- what they do ------------------------------------------------------------------------------------------------

    @property
    def _rewinds(self) -> bool:
        return self.lth or self.reset_end

    @property
    def _pruner(self) -> Pruner:
        assert self.pruner is not None, "the callback has not seen a fit"
        return self.pruner

    def _is_training_fit(self) -> bool:
        """False within validate, get_preds (they hold the learner's lock, in the middle of a fit too) and lr_find."""
        return not self.learn.lock.locked() and not hasattr(self.learn, "lr_finder")

    def _in_fit(self) -> bool:
        return self._fitting and self._is_training_fit()

    def _take_model(self) -> None:
        """Start from this model: masks of its earlier finished fits stay, those of an unfinished one are undone."""
        first = prunable_layers(self.learn.model, self.layer_type)[0]
        if self.pruner is None or self.pruner.layers[0].weight is not first.weight:
            self.pruner = Pruner(
                self.learn.model, self.criterion, granularity=self.granularity, context=self.context,
                layer_type=self.layer_type, seed=self.seed,
            )  # fmt: skip
        elif self._fitting:
            self.pruner.forget(self._levels_before)
        self._levels_before = len(self.pruner.levels)

    def _save_rewind_point(self) -> None:
        if self._rewinds:
            self._say(f"Saving Weights at epoch {self.rewind_epoch}")
            self.rewind_point = Snapshot(self.learn.model)

    def _prune(self, sparsity: Fraction) -> None:
        self._pruner.prune(sparsity)
        if self.lth:
            self._say(f"Resetting Weights to their epoch {self.rewind_epoch} values")
            self._reset()

    def _reset(self) -> None:
        assert self.rewind_point is not None
        self.rewind_point.restore(self.learn.model)
        self._pruner.apply()

    def _say(self, line: str) -> None:
        if self.verbose:
            print(line)
