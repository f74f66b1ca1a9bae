"""Trains a trial from its deepest stored state to its end, and stores states on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastai.callback.core import Callback, CancelFitException

from lth_trainable.errors import UserError
from lth_trainable.pruning.snapshot import Snapshot
from lth_trainable.silence import pulse
from lth_trainable.spec.rewind_point import INITIALISATION
from lth_trainable.spec.segments import Segment, needs_optimizer, rewind_key, segments
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stopwatch import part
from lth_trainable.store.record import Identity, can_record
from lth_trainable.store.states import State, States
from lth_trainable.training.learner import LevelClock
from lth_trainable.training.own_callback import OwnCallback
from lth_trainable.training.restored import Restored
from lth_trainable.training.trial import Trial

OnState = Callable[[str], None]
ShouldStop = Callable[[], bool]
RESUME_SECONDS = 30.0  # of training after which a trial stores a temporary state, in case it is killed


def never() -> bool:
    """For a trial that nobody asks to stop."""
    return False


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which states a trial stores beyond those that its record refers to.

    states: keys that other trials need; True if a trial ends there, so that the network is evaluated. mid_epoch_points:
    keys of states within an epoch of the dense network that other trials rewind to, by the number of the update that
    follows. resumable: also store states that this trial could continue from. Otherwise only weights are stored, and
    nothing can be continued or extended.
    """

    states: Mapping[str, bool]
    mid_epoch_points: Mapping[int, str] = field(default_factory=dict)
    resumable: bool = True


NOTHING_MORE = Keep(states={})


def identity_of(
    spec: TrialSpec, data_digest: str, steps_per_epoch: int, fingerprint: Mapping[str, Any],
    restored: Restored | None = None,
) -> Identity:  # fmt: skip
    """The identity of a trial. restored: where it goes on, if it was restored with other settings."""
    chain, key = segments(spec, data_digest, steps_per_epoch), spec.key(data_digest)
    if restored is not None:
        chain, key = restored.chain_of(chain), restored.key_of(key)
    about = restored.about() if restored is not None else None
    return Identity(spec=spec, key=key, chain=chain, fingerprint=fingerprint, restored=about)


class TrialLifecycle:
    """Trains a trial from its deepest stored state to its end, and stores states on the way.

    on_state: called with the key of each stored state. should_stop: looked at after each epoch; if true, its state is
    stored and reported, whatever `keep` says, so that `on_state` can end the trial there.
    """

    def __init__(
        self, trial: Trial, states: States, keep: Keep, on_state: OnState | None, should_stop: ShouldStop = never,
        restored: Restored | None = None,
    ) -> None:  # fmt: skip
        self.trial, self.states, self.keep, self.on_state = trial, states, keep, on_state
        self.should_stop, self.restored = should_stop, restored
        spec = trial.spec
        self.identity = identity_of(spec, trial.data.digest, trial.steps_per_epoch, states.fingerprint, restored)
        self.chain, trial.name = self.identity.chain, self.identity.name
        self.rewind_key = rewind_key(spec, self.chain)
        self.referred_to = self.identity.state_keys
        self.rewind_point = trial.initial if self.rewind_key == self.chain[0].key else None
        self.mid_epoch_points = dict(keep.mid_epoch_points)
        if spec.rewind_step is not None and self.rewind_key is not None:
            self.mid_epoch_points[spec.rewind_step] = self.rewind_key
        self.temporary: list[str] = []  # folders of this trial's temporary states
        self.unreported: list[str] = []  # keys of states that were stored before the first epoch
        self.is_at_end = False  # whether the network is that of the final state
        self.sealed_at = time.monotonic()

    @property
    def rewind_point(self) -> Snapshot | None:
        """What the trial's weights are rewound to; None before it is reached, or if they never are."""
        return self.trial.callback.rewind_point

    @rewind_point.setter
    def rewind_point(self, point: Snapshot | None) -> None:
        self.trial.callback.rewind_point = point

    def run(self) -> None:
        """Train what is left, if anything."""
        rewinds = {self.rewind_key} if self.rewind_key is not None else set()
        epochs = {key for *_, key in self._epochs(len(self.chain))}
        self.states.refresh({*self.referred_to.values(), *rewinds, *epochs})
        self._seal_initial()
        if self.restored is not None:
            self._check_restored(self.restored)
        if can_record(self.states.store, self.identity):
            there = {key for key in self.referred_to.values() if self.states.has(key, False)}
            damaged = [key for key in there if not self.states.is_sound(key)]
            if not damaged:
                return
            self._seal_initial()
        index, epoch = self._start()
        if self.trial.spec.family == "fit":
            self.trial.fit_all(epoch, _AtBoundaries(self, None), *self._at_steps())
        else:
            self._work_off(index, epoch)
        self._end()
        self.is_at_end = True

    def _check_restored(self, restored: Restored) -> None:
        """Raise `UserError` if a state that the trial goes on from is gone: only its own settings could be trained."""
        end = restored.chain[-1]
        for key in {restored.state, self.rewind_key or restored.state} - {self.chain[0].key}:
            optimizer = key != restored.state or self._needs_optimizer(end, end.end)
            if not (self.states.has(key, optimizer=optimizer) and self.states.is_sound(key)):
                raise UserError(
                    f"restored from {restored.trial}: found no state {self.states.path(key)} in "
                    f"{self.states.store.uri}; expected the one that the checkpoint is of; it may have been deleted "
                    "(python -m sweeps.storage gc); start the trial without the checkpoint"
                )

    # -- where to start ----------------------------------------------------------------------------------------------

    @part("storing")
    def _start(self) -> tuple[int, int]:
        """Load the deepest stored state; returns the index of the segment to continue with, and the epoch in it."""
        found = self._deepest_first(len(self.chain))
        self.temporary = [path for i, epoch in found for path in self.states.temporary(self.chain[i].key_at(epoch))]
        for index, epoch in found:
            key = self.chain[index].key_at(epoch)
            state = self.states.load(key, self.trial.initial, self._needs_optimizer(self.chain[index], epoch))
            if state is None:
                continue
            self._fetch_rewind_point()
            if self._is_past_rewind_point(index, epoch) and self.rewind_point is None:
                if self.trial.spec.family == "fit":
                    continue
                self._make_rewind_point()
            self.trial.go_to(state, self.rewind_point)
            if key in self.keep.states and self.states.find(key) is None:
                self._keep_temporary(key, state)
            return index, epoch
        return 0, 0

    def _keep_temporary(self, key: str, state: State) -> None:
        """Store the state to start from for good, if it is needed and so far only a temporary one."""
        if self.keep.states[key]:
            state = replace(state, history={**state.history, "evaluation": self.trial.evaluation()})
        self.states.seal(key, state)
        self.unreported.append(key)

    def _deepest_first(self, before: int) -> list[tuple[int, int]]:
        """Index of the segment and epoch of each training state that has a folder, deepest first."""
        return [(index, epoch) for index, epoch, key in self._epochs(before) if key in self.states.known]

    def _epochs(self, before: int) -> Iterator[tuple[int, int, str]]:
        """Index of the segment, epoch and key of every training state on the chain, deepest first."""
        for index in range(before - 1, 0, -1):
            segment = self.chain[index]
            for epoch in range(segment.end, segment.start, -1):
                yield index, epoch, segment.key_at(epoch)

    def _is_past_rewind_point(self, index: int, epoch: int) -> bool:
        """Whether training from here needs the rewind point but would not pass it any more."""
        spec = self.trial.spec
        if self.rewind_key is None:
            return False
        step = (spec.rewind_point or INITIALISATION).updates_before(self.trial.steps_per_epoch)
        return self.chain[index].level > 0 or epoch * self.trial.steps_per_epoch > step

    def _fetch_rewind_point(self) -> None:
        if self.rewind_point is None and self.rewind_key in self.states.known:
            assert self.rewind_key is not None
            state = self.states.load(self.rewind_key, self.trial.initial)
            if state is not None:
                self.rewind_point = state.snapshot
                self.states.seal(self.rewind_key, state, complete=self.keep.resumable)  # it may be a temporary one

    def _make_rewind_point(self) -> None:
        """Train the dense network to the rewind point again; a later state is stored, but the point is not."""
        spec, trial = self.trial.spec, self.trial
        first = 1 + next(i for i, s in enumerate(self.chain) if s.level)
        for index, epoch in self._deepest_first(first):
            state = self.states.load(self.chain[index].key_at(epoch), trial.initial)
            if state is not None and not self._is_past_rewind_point(index, epoch):
                trial.go_to(state, None)
                start = epoch
                break
        else:
            start = 0
        if spec.rewind_step is not None:
            self._train(self.chain[1], start, spec.epochs, stop=True)
        else:
            self._train(self.chain[1], start, spec.rewind_epoch or 0)

    # -- training ----------------------------------------------------------------------------------------------------

    def _work_off(self, index: int, epoch: int) -> None:
        for number, segment in enumerate(self.chain[index:], index):
            if self.trial.log.diverged:
                return
            if segment.kind == "train":
                start = epoch if number == index else segment.start
                if start < segment.end:
                    self._train(segment, start, segment.end)
            elif segment.kind in ("prune", "restart"):
                self.trial.prune(segment)
            elif segment.kind == "given":
                self.trial.apply_imported_mask(segment)
            elif segment.kind == "control":
                self.trial.control(self.rewind_point)
            elif segment.kind in ("rewind", "reset_end"):
                self.trial.rewind(self.rewind_point if self.trial.spec.rewinds else None)

    def _train(self, segment: Segment, start: int, end: int, stop: bool = False) -> None:
        spec, level = self.trial.spec, segment.level
        starts_over = spec.starts_over and segment is self.chain[-1]
        is_last = level > 0 and spec.retrain == "fine_tuning" and not starts_over
        level_clock = LevelClock(
            level=level if spec.order_is_new else 0, lr_is_last=is_last,
            lr_fraction=spec.fine_tuning_lr_fraction if is_last else None,
            lr=spec.control_lr if segment is self.chain[-1] else None,
        )  # fmt: skip
        more: list[Callback] = [_AtBoundaries(self, segment)]
        if level == 0:
            more += self._at_steps(spec.rewind_step if stop else None)
        elif spec.rewind_step is not None and start == segment.start and not starts_over:
            level_clock = replace(level_clock, skip=spec.rewind_step % self.trial.steps_per_epoch)
        self.trial.fit(start, end, level_clock, *more)

    def _at_steps(self, stop: int | None = None) -> list[Callback]:
        return [_AtStep(self, self.mid_epoch_points, stop)] if self.mid_epoch_points else []

    # -- storing -----------------------------------------------------------------------------------------------------

    @part("storing")
    def at_boundary(self, segment: Segment | None, epoch: int) -> None:
        """After an epoch: store the state if it is needed, or a temporary one if much work could be lost.

        Much work could also be lost if the trial is asked to stop.
        """
        if segment is None:  # a schedule within one fit
            segment = next(s for s in self.chain if s.kind == "train" and s.start < epoch <= s.end)
        key = segment.key_at(epoch)
        if key == self.rewind_key:
            self.rewind_point = Snapshot(self.trial.model, self.trial.learn.opt)
        while self.unreported:
            self._report(self.unreported.pop())
        is_end = key == self.chain[-1].key
        is_asked = not is_end and self.keep.resumable and self.should_stop()
        optimizer = self._needs_optimizer(segment, epoch)
        if key in self.keep.states:
            self._seal(key, measured=self.keep.states[key], optimizer=optimizer)
            self._report(key)
        elif key == self.rewind_key and not is_end:
            self._seal(key, measured=False)
            if is_asked:
                self._report(key)
        elif is_asked or (not is_end and self.keep.resumable and time.monotonic() - self.sealed_at > RESUME_SECONDS):
            self._seal_temporary(key, optimizer)
            self._report(key)

    @part("storing")
    def at_mid_epoch_point(self, step: int) -> None:
        """Before update `step` of the dense network: store its state, which tickets are rewound to."""
        key = self.mid_epoch_points[step]
        if key == self.rewind_key:
            self.rewind_point = Snapshot(self.trial.model, self.trial.learn.opt)
        self._seal(key, measured=False)

    @part("storing")
    def _seal_initial(self) -> None:
        """Store the initial weights. A control that starts over also stores those of its ticket.

        Trials that end on the way refer to them.
        """
        for key in {self.chain[0].key, self.referred_to["initial"]}:
            if self.states.find(key, complete=False) is None:
                self.states.seal(key, self.trial.initial_state(restarted=key != self.chain[0].key), complete=False)

    def _needs_optimizer(self, segment: Segment, epoch: int) -> bool:
        return needs_optimizer(self.trial.spec, segment, epoch)

    def _seal(self, key: str, measured: bool, optimizer: bool = True) -> None:
        if self.keep.resumable or key in self.referred_to.values():
            self.states.seal(key, self.trial.state(measured, optimizer), complete=self.keep.resumable)
            self.sealed_at = time.monotonic()
            self._forget_temporary()

    def _seal_temporary(self, key: str, optimizer: bool) -> None:
        """Store a temporary state, unless the state is stored for good already."""
        paths = []
        if self.states.find(key, optimizer=optimizer) is None:
            paths = [self.states.seal_temporary(key, self.trial.state(False, optimizer))]
        self.sealed_at = time.monotonic()
        self._forget_temporary()
        self.temporary = paths

    def end_again(self) -> None:
        """Evaluate and store the final state once more: another trial has meanwhile stored it without an evaluation.

        To that trial it is a state on its way.
        """
        if self.is_at_end:
            self._end()
        else:
            self.run()

    @part("storing")
    def _end(self) -> None:
        """Store and evaluate the trial's final state, and delete its temporary states."""
        if not can_record(self.states.store, self.identity):  # it may be stored for other trials, without an evaluation
            end = self.chain[-1]
            trained = end.kind == "train" and not self.trial.log.diverged
            complete = trained and (self.keep.resumable or self.states.has(end.key))
            state = self.trial.state(True, complete and self._needs_optimizer(end, end.end))
            self.states.seal(end.key, state, complete=complete, overwrite=True)
        self._forget_temporary()

    def _report(self, key: str) -> None:
        if self.on_state is not None:
            self.on_state(key)

    def _forget_temporary(self) -> None:
        for path in self.temporary:
            self.states.delete_temporary(path)
        self.temporary = []


class _AtBoundaries(OwnCallback):
    """Calls the lifecycle after every trained epoch."""

    order = 80

    def __init__(self, lifecycle: TrialLifecycle, segment: Segment | None) -> None:
        self.lifecycle, self.segment, self.trained = lifecycle, segment, False

    def before_train(self) -> None:
        self.trained = True
        pulse.at(self.lifecycle.trial.level, self.learn.clock.now)

    def after_epoch(self) -> None:
        if self.trained:
            self.trained = False
            self.lifecycle.at_boundary(self.segment, self.learn.clock.now + 1)


class _AtStep(OwnCallback):
    """Calls the lifecycle before updates that tickets are rewound to. stop: ends the fit before this update."""

    order = 80

    def __init__(self, lifecycle: TrialLifecycle, steps: Collection[int], stop: int | None) -> None:
        self.lifecycle, self.steps, self.stop = lifecycle, steps, stop

    def acts_at(self, event: str, n_iter: int) -> set[int]:
        """The batches of an epoch before which it acts."""
        first = self.learn.clock.first
        return {step - first for step in self.steps if event == "before_batch" and 0 <= step - first < n_iter}

    def before_batch(self) -> None:
        if self.learn.training and self.learn.clock.step in self.steps:
            self.lifecycle.at_mid_epoch_point(self.learn.clock.step)
            if self.learn.clock.step == self.stop:
                raise CancelFitException
