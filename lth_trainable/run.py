"""The whole life of one trial, without Ray: `run_trial(spec, store)`.

A trial starts from the deepest state on its chain that the store has, works off the segments that are left, and stores
the states that others need. One `Learner.fit` a stretch of training for levels, one fit in all for schedules within it.
Its record is made from the state in which it ends.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from fastai.callback.core import Callback, CancelFitException

from lth_trainable.criteria import CRITERIA
from lth_trainable.data import Dataset, load_dataset
from lth_trainable.errors import UserError
from lth_trainable.execution import Execution, fingerprint, is_no_room, no_room, prepare, release, versions
from lth_trainable.keep_mask import KeepMask
from lth_trainable.layers import LAYER_TYPES, prunable_layers
from lth_trainable.learner import EpochLog, Place, make_learner, measure, seed_torch
from lth_trainable.loaders import resident_loaders
from lth_trainable.models import MODELS
from lth_trainable.pruner import Pruner, calibration
from lth_trainable.record import Identity, can_record, record_trial
from lth_trainable.registry import lookup
from lth_trainable.rewind import Snapshot
from lth_trainable.seeds import derive_seed
from lth_trainable.segments import Segment, rewind_key, segments
from lth_trainable.sparsify import SparsifyCallback
from lth_trainable.spec import TrialSpec
from lth_trainable.states import Memory, State, States, size_of
from lth_trainable.store import Store

OnEpoch = Callable[[dict[str, Any]], None]
OnState = Callable[[str], None]
RESUME_SECONDS = 30.0  # of training after which a state is stored for no one but the trial itself, should it be killed


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which states a trial stores beyond those that its record refers to.

    states: keys that other trials need; True where one ends, so that the network is measured there. marks: keys of the
    states before an update of the dense network that other trials are rewound to, by the update's number. resumable:
    store also where this trial could go on; without, only weights are kept and nothing can be continued or extended.
    """

    states: Mapping[str, bool]
    marks: Mapping[int, str] = field(default_factory=dict)
    resumable: bool = True


NOTHING_MORE = Keep(states={})


def run_trial(
    spec: TrialSpec,
    store: Store,
    run: str = "alone",
    execution: Execution | None = None,
    on_epoch: OnEpoch | None = None,
    *,
    keep: Keep = NOTHING_MORE,
    on_state: OnState | None = None,
    on_damage: OnState | None = None,
) -> dict[str, Any]:
    """Train what is missing of the trial, seal it in the store under `run`, and return its record.

    on_epoch: is told of each epoch's row as it ends; on_state: of the key of each state stored on the way; on_damage:
    of each damaged state set aside. A loss that is not finite gives a record of status "diverged". Raises `UserError`
    for what cannot run, a device without room for it included. GPU memory is free again afterwards, the data's apart.
    """
    execution = execution or Execution()
    try:
        return _run(spec, store, run, execution, on_epoch, keep, on_state, on_damage)
    except Exception as error:
        if not is_no_room(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the network and its data
        raise no_room(execution, spec.name) from error
    finally:
        release(execution)


def _run(
    spec: TrialSpec,
    store: Store,
    run: str,
    execution: Execution,
    on_epoch: OnEpoch | None,
    keep: Keep,
    on_state: OnState | None,
    on_damage: OnState | None,
) -> dict[str, Any]:
    prepare(execution)
    data = load_dataset(spec.dataset, execution.data_root, spec.split_seed)
    trial = _Trial(spec, data, execution, on_epoch)
    life = _Life(trial, States(store, fingerprint(execution)), keep, on_state)
    life.live()
    for report in life.states.set_aside:
        if on_damage is not None:
            on_damage(report)
    record = record_trial(
        store, run, life.identity, seconds=time.perf_counter() - trial.started, epochs_trained=trial.log.trained
    )
    assert record is not None, "a state of the trial was taken away while it was sealed; run it again"
    return record


def probe(spec: TrialSpec, execution: Execution, budget: float) -> tuple[float, int]:
    """Seconds of one epoch of the trial's network and bytes of a stored state; nothing is written.

    From as many dense training steps as fit into `budget` seconds.
    """
    prepare(execution)
    trial = _Trial(spec, load_dataset(spec.dataset, execution.data_root, spec.split_seed), execution, None)
    steps = _TimedSteps(budget)
    trial.learn.fit(1_000_000, cbs=steps)
    return steps.seconds_per_step * trial.steps_per_epoch, size_of(trial.state(False))


class _TimedSteps(Callback):
    """Ends the fit when the budget is spent; the first step, which warms up, is not counted."""

    def __init__(self, budget: float) -> None:
        self.budget, self.steps, self.first, self.seconds_per_step = budget, -1, 0.0, 0.0

    def after_step(self) -> None:
        now = time.perf_counter()
        self.steps += 1
        if self.steps == 0:
            self.first = now
        elif now - self.first > self.budget:
            self.seconds_per_step = (now - self.first) / self.steps
            raise CancelFitException


class _Trial:
    """The network of one trial with its learner, and what can be done to them."""

    def __init__(self, spec: TrialSpec, data: Dataset, execution: Execution, on_epoch: OnEpoch | None) -> None:
        self.spec, self.data, self.execution = spec, data, execution
        self.started = time.perf_counter()
        seed_torch(derive_seed(spec.seed, "init"), torch.device(execution.device))
        model = lookup("model", spec.model, MODELS)(data.shape, len(data.classes))
        self.model = model.to(execution.device)
        order_seed = spec.seed if spec.order_seed is None else spec.order_seed
        self.dls = resident_loaders(
            data, batch_size=spec.batch_size, order_seed=order_seed, device=execution.device, augment=spec.augment
        )
        self.log = EpochLog(self._describe, on_epoch)
        self.learn = make_learner(spec, self.model, self.dls, self.log)
        self.learn.create_opt()
        self.initial = Snapshot(self.model, self.learn.opt)
        self.keeper = self._make_keeper()
        self.learn.add_cb(self.keeper)

    @property
    def steps_per_epoch(self) -> int:
        return self.dls.train.steps_per_epoch

    @property
    def pruner(self) -> Pruner | None:
        """None before the fit of a schedule within it."""
        return self.keeper.pruner if isinstance(self.keeper.pruner, Pruner) else None

    def state(self, measured: bool) -> State:
        """The present state; measured: with loss and accuracy on the validation and the test part."""
        memory = Memory.of(self.pruner) if self.pruner is not None else Memory()
        return State(
            snapshot=Snapshot(self.model, self.learn.opt), memory=memory, history=self._history(memory, measured)
        )

    def go_to(self, state: State, rewind_point: Snapshot | None) -> None:
        """Be where `state` was. rewind_point: what later resets within a fit return to, once that is past."""
        self.log.rows = [dict(row) for row in state.history["rows"]]
        if isinstance(self.keeper, SparsifyCallback):
            names = [layer.parameter_name for layer in prunable_layers(self.model, LAYER_TYPES[self.spec.layers])]
            first = {name: self.initial.tensors[name] for name in names}
            self.keeper.load_state_dict({
                "levels": state.memory.levels, "asked": state.memory.asked, "initial": first,
                "previous": state.memory.previous or first, "remembered": state.memory.remembered,
                "first": self.initial.state(), "rewind_point": rewind_point.state() if rewind_point else None,
            })  # fmt: skip
        elif self.pruner is not None:
            state.memory.give(self.pruner)
        state.snapshot.restore(self.model, self.learn.opt)

    def fit(self, start: int, end: int, place: Place, *more: Callback) -> None:
        """Train the epochs [start, end) of a level."""
        self.learn.clock.place = place
        self.learn.clock.start = start
        self.learn.fit(end - start, cbs=list(more))

    def fit_all(self, start: int, *more: Callback) -> None:
        """Train the whole fit of a schedule within it, from epoch `start` on."""
        self.learn.fit(self.spec.epochs, start_epoch=start, cbs=list(more))

    def prune(self, segment: Segment) -> None:
        pruner = self.pruner
        assert pruner is not None
        target: Any = segment.sparsity
        if segment.output_sparsity is not None:
            target = dict.fromkeys(pruner.counts, segment.sparsity)
            target[pruner.layers[-1].parameter_name] = segment.output_sparsity
        pruner.prune(target, self.model, calibration(self.dls))

    def rewind(self, to: Snapshot | None) -> None:
        """After a prune: return to a snapshot; without one go on from the pruned weights. The mask stays in force."""
        retrain, optimizer = self.spec.retrain, self.learn.opt
        if to is not None:
            to.restore(self.model, None if self.spec.rewind_optimizer == "fresh" else optimizer)
        if retrain == "lr_rewinding" or self.spec.rewind_optimizer == "fresh":
            optimizer.clear_state()
        if self.pruner is not None:
            self.pruner.apply()

    def _make_keeper(self) -> KeepMask | SparsifyCallback:
        spec = self.spec
        layer_type, seed = LAYER_TYPES[spec.layers], derive_seed(spec.seed, "criterion")
        if spec.is_dense:
            return KeepMask(Pruner(prunable_layers(self.model, layer_type), CRITERIA["large_final"]))
        criterion = lookup("criterion", str(spec.criterion), CRITERIA)
        granularity, context = str(spec.granularity), str(spec.context)
        if spec.family == "levels":
            return KeepMask(Pruner(
                prunable_layers(self.model, layer_type), criterion, granularity=granularity, context=context, seed=seed
            ))  # fmt: skip
        assert spec.target_sparsity_pct is not None
        return SparsifyCallback(
            spec.target_sparsity_pct, granularity, context, criterion, spec.make_schedule(),
            lth=spec.retrain == "tutorial", rewind_epoch=spec.rewind_epoch or 0, reset_end=spec.reset_end,
            layer_type=layer_type, verbose=False, seed=seed,
        )  # fmt: skip

    def _describe(self) -> dict[str, Any]:
        pruner = self.pruner
        level, sparsity = (len(pruner.levels), pruner.sparsity_pct) if pruner is not None else (0, 0.0)
        return {"level": level, "sparsity_pct": sparsity, "trained_by": self.spec.name}

    def _history(self, memory: Memory, measured: bool) -> dict[str, Any]:
        layers = prunable_layers(self.model, LAYER_TYPES["all"])
        return {
            "rows": list(self.log.rows),
            "weights": {
                layer.parameter_name: {
                    "layer": layer.name, "type": layer.type, "n": layer.weight.numel(),
                    "shape": list(layer.weight.shape),
                }
                for layer in layers
            },
            "selections": {name: self._selected(name) for name in LAYER_TYPES},
            "counts": self.pruner.counts_by_level[1:] if self.pruner is not None else [],
            "asked": {name: str(value) for name, value in memory.asked.items()},
            "evaluation": self.evaluation() if measured and not self.log.diverged else None,
            "diverged": self._reason(), "data": self._about_data(), "versions": versions(),
        }  # fmt: skip

    def _selected(self, layers: str) -> list[str]:
        try:
            return [layer.parameter_name for layer in prunable_layers(self.model, LAYER_TYPES[layers])]
        except UserError:  # none of this type: no trial of this network selects it
            return []

    def evaluation(self) -> dict[str, Any]:
        """Loss and accuracy of the present network on the validation and the test part."""
        valid, test = (measure(self.model, self.dls[part], self.learn.loss_func) for part in (1, 2))
        return {"valid": valid, "test": test}

    def _about_data(self) -> dict[str, Any]:
        data = self.data
        return {
            "digest": data.digest, "shape": list(data.shape), "n_classes": len(data.classes),
            "n_train": len(data.train), "n_valid": len(data.valid), "n_test": len(data.test),
            "majority_class_accuracy": data.majority_class_accuracy,
        }  # fmt: skip

    def _reason(self) -> str | None:
        if not self.log.diverged:
            return None
        row = self.log.rows[-1]
        return f"the loss was not finite at level {row['level']}, epoch {row['epoch']}"


class _Life:
    """A trial from the deepest state that is stored to its end, storing on the way what is to be kept."""

    def __init__(self, trial: _Trial, states: States, keep: Keep, on_state: OnState | None) -> None:
        self.trial, self.states, self.keep, self.on_state = trial, states, keep, on_state
        spec = trial.spec
        self.chain = segments(spec, trial.data.digest, trial.steps_per_epoch)
        self.identity = Identity(spec=spec, key=spec.key(trial.data.digest), chain=self.chain, mark=states.mark)
        self.rewind_key = rewind_key(spec, self.chain)
        self.rewind_point: Snapshot | None = trial.initial if self.rewind_key == self.chain[0].key else None
        self.marks = dict(keep.marks)
        if spec.rewind_step is not None and self.rewind_key is not None:
            self.marks[spec.rewind_step] = self.rewind_key
        self.passing: list[str] = []  # folders of states stored for this trial alone, until there is a deeper one
        self.untold: list[str] = []  # keys of states that came to be kept before the first epoch
        self.sealed_at = time.monotonic()

    def live(self) -> None:
        """Train what is left, if anything is."""
        self.states.look()
        self._seal_initial()
        if can_record(self.states.store, self.identity):
            damaged = [
                key for key in self._referred_to if self.states.has(key, False) and not self.states.is_sound(key)
            ]
            if not damaged:
                return
            self._seal_initial()
        index, epoch = self._start()
        if self.trial.spec.family == "fit":
            self.trial.fit_all(epoch, _AtBoundaries(self, None), *self._at_steps())
        else:
            self._work_off(index, epoch)
        self._end()

    # -- where to start ----------------------------------------------------------------------------------------------

    def _start(self) -> tuple[int, int]:
        """Go to the deepest stored state; returns the segment to go on with, and the epoch within it."""
        found = self._deepest_first(len(self.chain))
        self.passing = [path for i, epoch in found for path in self.states.passing(self.chain[i].key_at(epoch))]
        for index, epoch in found:
            key = self.chain[index].key_at(epoch)
            state = self.states.load(key, self.trial.initial)
            if state is None:
                continue
            self._fetch_rewind_point()
            if self._is_past_rewind_point(index, epoch) and self.rewind_point is None:
                if self.trial.spec.family == "fit":
                    continue
                self._make_rewind_point()
            self.trial.go_to(state, self.rewind_point)
            if key in self.keep.states and self.states.find(key) is None:
                self._keep_passing(key, state)
            return index, epoch
        return 0, 0

    def _keep_passing(self, key: str, state: State) -> None:
        """The state to start from is to be kept, and was stored for a while only."""
        if self.keep.states[key]:
            state = replace(state, history={**state.history, "evaluation": self.trial.evaluation()})
        self.states.seal(key, state)
        self.untold.append(key)

    def _deepest_first(self, before: int) -> list[tuple[int, int]]:
        """Segments and epochs of training whose state is listed, the deepest first."""
        known = self.states.known
        return [
            (index, epoch)
            for index in range(before - 1, 0, -1)
            if self.chain[index].kind == "train"
            for epoch in range(self.chain[index].end, self.chain[index].start, -1)
            if self.chain[index].key_at(epoch) in known
        ]

    def _is_past_rewind_point(self, index: int, epoch: int) -> bool:
        """Whether training that goes on from here would not come by the rewind point any more, yet needs it."""
        spec = self.trial.spec
        if not spec.rewinds:
            return False
        step = spec.rewind_step or (spec.rewind_epoch or 0) * self.trial.steps_per_epoch
        return self.chain[index].level > 0 or epoch * self.trial.steps_per_epoch > step

    def _fetch_rewind_point(self) -> None:
        if self.rewind_point is None and self.rewind_key in self.states.known:
            assert self.rewind_key is not None
            state = self.states.load(self.rewind_key, self.trial.initial)
            if state is not None:
                self.rewind_point = state.snapshot
                self.states.seal(self.rewind_key, state, complete=self.keep.resumable)  # it may be a passing one

    def _make_rewind_point(self) -> None:
        """Train the dense network anew as far as the rewind point: a later state is stored, the point is not."""
        spec, trial = self.trial.spec, self.trial
        first = 1 + next(i for i, s in enumerate(self.chain) if s.kind == "prune")
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
            elif segment.kind == "prune":
                self.trial.prune(segment)
            elif segment.kind in ("rewind", "reset_end"):
                self.trial.rewind(self.rewind_point if self.trial.spec.rewinds else None)

    def _train(self, segment: Segment, start: int, end: int, stop: bool = False) -> None:
        spec, level = self.trial.spec, segment.level
        is_last = level > 0 and spec.retrain == "fine_tuning"
        place = Place(level=level if spec.order_is_new else 0, lr_is_last=is_last)
        more: list[Callback] = [_AtBoundaries(self, segment)]
        if level == 0:
            more += self._at_steps(spec.rewind_step if stop else None)
        elif spec.rewind_step is not None and start == segment.start:
            place = replace(place, skip=spec.rewind_step % self.trial.steps_per_epoch)
        self.trial.fit(start, end, place, *more)

    def _at_steps(self, stop: int | None = None) -> list[Callback]:
        return [_AtStep(self, self.marks, stop)] if self.marks else []

    # -- storing -----------------------------------------------------------------------------------------------------

    def at_boundary(self, segment: Segment | None, epoch: int) -> None:
        """After an epoch: store the state where it is to be kept, or where much would be lost without."""
        if segment is None:  # within a fit
            segment = next(s for s in self.chain if s.kind == "train" and s.start < epoch <= s.end)
        key = segment.key_at(epoch)
        if key == self.rewind_key:
            self.rewind_point = Snapshot(self.trial.model, self.trial.learn.opt)
        while self.untold:
            self._tell(self.untold.pop())
        if key in self.keep.states:
            self._seal(key, measured=self.keep.states[key])
            self._tell(key)
        elif key == self.rewind_key and key != self.chain[-1].key:
            self._seal(key, measured=False)
        elif key != self.chain[-1].key and self.keep.resumable and time.monotonic() - self.sealed_at > RESUME_SECONDS:
            self._seal_passing(key)
            self._tell(key)

    def at_mark(self, step: int) -> None:
        """Before the update `step` of the dense network: its state is one that tickets are rewound to."""
        key = self.marks[step]
        if key == self.rewind_key:
            self.rewind_point = Snapshot(self.trial.model, self.trial.learn.opt)
        self._seal(key, measured=False)

    def _seal_initial(self) -> None:
        if self.states.find(self.chain[0].key, complete=False) is None:
            self.states.seal(self.chain[0].key, self.trial.state(False), complete=False)

    def _seal(self, key: str, measured: bool) -> None:
        if self.keep.resumable or key in self._referred_to:
            self.states.seal(key, self.trial.state(measured), complete=self.keep.resumable)
            self.sealed_at = time.monotonic()
            self._forget_passing()

    def _seal_passing(self, key: str) -> None:
        """Store a state until there is a deeper one; none where another trial stores it for good."""
        paths = [] if self.states.find(key) is not None else [self.states.seal_passing(key, self.trial.state(False))]
        self.sealed_at = time.monotonic()
        self._forget_passing()
        self.passing = paths

    @property
    def _referred_to(self) -> set[str]:
        """Keys of the states that the trial's record refers to."""
        return {self.chain[0].key, self.chain[-1].key, *([self.rewind_key] if self.rewind_key else [])}

    def _end(self) -> None:
        """Store the state in which the trial ends, measured; what was stored for its own sake goes."""
        if not can_record(self.states.store, self.identity):  # it may be there, for others, and not be measured
            key = self.chain[-1].key
            trained = self.chain[-1].kind == "train" and not self.trial.log.diverged
            complete = trained and (self.keep.resumable or self.states.has(key))
            self.states.seal(key, self.trial.state(True), complete=complete, anew=True)
        self._forget_passing()

    def _tell(self, key: str) -> None:
        if self.on_state is not None:
            self.on_state(key)

    def _forget_passing(self) -> None:
        for path in self.passing:
            self.states.delete_passing(path)
        self.passing = []


class _AtBoundaries(Callback):
    """Tells the trial's life of every epoch that was trained."""

    order = 80

    def __init__(self, life: _Life, segment: Segment | None) -> None:
        self.life, self.segment, self.trained = life, segment, False

    def before_train(self) -> None:
        self.trained = True

    def after_epoch(self) -> None:
        if self.trained:
            self.trained = False
            self.life.at_boundary(self.segment, self.learn.clock.now + 1)


class _AtStep(Callback):
    """Tells the trial's life of the updates that tickets are rewound to; stop: ends the fit before that update."""

    order = 80

    def __init__(self, life: _Life, steps: Collection[int], stop: int | None) -> None:
        self.life, self.steps, self.stop = life, steps, stop

    def before_batch(self) -> None:
        if self.learn.training and self.learn.clock.step in self.steps:
            self.life.at_mark(self.learn.clock.step)
            if self.learn.clock.step == self.stop:
                raise CancelFitException
