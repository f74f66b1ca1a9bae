"""The network of one trial with its learner, and what can be done to them: train, prune, rewind, take their state."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from fastai.callback.core import Callback

from lth_trainable.criteria import CRITERIA
from lth_trainable.data import Dataset
from lth_trainable.errors import UserError
from lth_trainable.execution import Execution, versions
from lth_trainable.keep_mask import KeepMask
from lth_trainable.layers import LAYER_TYPES, prunable_layers
from lth_trainable.learner import EpochLog, Place, make_learner, measure, seed_torch
from lth_trainable.loaders import resident_loaders
from lth_trainable.models import MODELS
from lth_trainable.pruner import Pruner, calibration
from lth_trainable.registry import lookup
from lth_trainable.rewind import Snapshot
from lth_trainable.seeds import derive_seed
from lth_trainable.segments import Segment
from lth_trainable.sparsify import SparsifyCallback
from lth_trainable.spec import TrialSpec
from lth_trainable.states import Memory, State

OnEpoch = Callable[[dict[str, Any]], None]


class Trial:
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
            "diverged": self._reason(), "data": self._about_data(), "versions": dict(versions()),
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
