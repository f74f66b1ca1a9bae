"""The whole life of one trial, without Ray: `run_trial(spec, store)`.

The segments of the spec are worked off in order: one `Learner.fit` a stretch of training for levels, one fit in all for
schedules within it. Masks, weights and the record are sealed in the store at the end.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fastai.callback.core import Callback, CancelFitException
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors

from lth_trainable.criteria import CRITERIA
from lth_trainable.data import Dataset, load_dataset
from lth_trainable.execution import Execution, fingerprint, versions
from lth_trainable.keep_mask import KeepMask
from lth_trainable.layers import LAYER_TYPES, prunable_layers
from lth_trainable.learner import EpochLog, make_learner, seed_torch
from lth_trainable.loaders import resident_loaders
from lth_trainable.masks import pack
from lth_trainable.models import MODELS
from lth_trainable.pruner import Pruner, calibration
from lth_trainable.registry import lookup
from lth_trainable.rewind import Snapshot
from lth_trainable.seeds import derive_seed
from lth_trainable.segments import segments, state_at
from lth_trainable.sparsify import SparsifyCallback
from lth_trainable.spec import TrialSpec, digest
from lth_trainable.store import FINAL, FORMAT, MASKS, RECORD, WEIGHTS, Damaged, Store, to_json

OnEpoch = Callable[[dict[str, Any]], None]


def run_trial(
    spec: TrialSpec,
    store: Store,
    run: str = "alone",
    execution: Execution | None = None,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """Train the trial, seal it in the store under `run`, and return its record.

    on_epoch: is told of each epoch's row as it ends. A loss that is not finite gives a record of status "diverged".
    Raises `UserError` for what cannot run.
    """
    execution = execution or Execution()
    torch.set_num_threads(execution.threads)
    trial = _Trial(spec, load_dataset(spec.dataset, execution.data_root, spec.split_seed), execution, on_epoch)
    trial.train()
    return trial.seal(store, run)


def seconds_per_epoch(spec: TrialSpec, execution: Execution, budget: float) -> float:
    """Seconds of one epoch of the trial's network, from as many dense training steps as fit into `budget` seconds."""
    torch.set_num_threads(execution.threads)
    trial = _Trial(spec, load_dataset(spec.dataset, execution.data_root, spec.split_seed), execution, None)
    steps = _TimedSteps(budget)
    trial.learn.fit(1_000_000, cbs=steps)
    return steps.seconds_per_step * len(trial.dls.train)


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
    """One trial at work."""

    def __init__(self, spec: TrialSpec, data: Dataset, execution: Execution, on_epoch: OnEpoch | None) -> None:
        self.spec, self.data, self.execution = spec, data, execution
        self.chain = segments(spec, data.digest)
        seed_torch(derive_seed(spec.seed, "init"), torch.device(execution.device))
        model = lookup("model", spec.model, MODELS)(data.shape, len(data.classes))
        self.model = model.to(execution.device)
        order_seed = spec.seed if spec.order_seed is None else spec.order_seed
        self.dls = resident_loaders(data, batch_size=spec.batch_size, order_seed=order_seed, device=execution.device)
        self.log = EpochLog(self._describe, on_epoch)
        self.learn = make_learner(spec, self.model, self.dls, self.log)
        self.learn.create_opt()
        self.snapshots = {0: Snapshot(self.model, self.learn.opt)}
        self.keeper = self._make_keeper()
        self.started = time.perf_counter()

    # -- training ----------------------------------------------------------------------------------------------------

    def train(self) -> None:
        self.learn.add_cb(self.keeper)
        if self.spec.family == "fit":
            self._fit(0, self.spec.epochs)
        else:
            self._work_off_segments()

    def _work_off_segments(self) -> None:
        k = self.spec.rewind_epoch
        for segment in self.chain:
            if self.log.diverged:
                return
            if segment.kind == "train":
                self._fit(segment.start, segment.end)
                if segment.level == 0 and segment.end == k:
                    self.snapshots[k] = Snapshot(self.model, self.learn.opt)
            elif segment.kind == "prune":
                self._pruner.prune(segment.sparsity, self.model, calibration(self.dls))
            elif segment.kind in ("rewind", "reset_end"):
                assert k is not None
                self.snapshots[k].restore(self.model, self.learn.opt)
                self._pruner.apply()

    def _fit(self, start: int, end: int) -> None:
        self.learn.clock.start = start
        self.learn.fit(end - start)

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

    @property
    def _pruner(self) -> Pruner:
        assert isinstance(self.keeper.pruner, Pruner)
        return self.keeper.pruner

    def _describe(self) -> dict[str, Any]:
        pruner = self._pruner
        return {"level": len(pruner.levels), "sparsity_pct": pruner.sparsity_pct, "trained_by": self.spec.name}

    # -- sealing -----------------------------------------------------------------------------------------------------

    def seal(self, store: Store, run: str) -> dict[str, Any]:
        """Write rewind weights, then the trial's own files, manifest last; returns the record."""
        seconds = time.perf_counter() - self.started
        mark = fingerprint(self.execution)
        result = self._result()
        keys = {"initial": self.chain[0].key, "final": self.chain[-1].key}
        folders = {"initial": _seal_state(store, keys["initial"], mark, self.snapshots[0])}
        rewind_point = self._rewind_point()
        if rewind_point is not None:
            keys["rewind"] = state_at(self.chain, self.spec.rewind_epoch or 0)
            folders["rewind"] = _seal_state(store, keys["rewind"], mark, rewind_point)
        weights = save_tensors(_to_save(self.model.state_dict()))
        masks = save_arrays(self._packed_masks())
        key = self.spec.key(self.data.digest)
        record = {
            "format": FORMAT, "trial": self.spec.name, "key": key, "spec": self.spec.canonical(),
            "status": "diverged" if self.log.diverged else "done",
            "reason": self._reason(), "data": self._about_data(), "states": keys, "epochs": self.log.rows,
            "layers": self._layers(), "result": result,
            "shapes": {layer.parameter_name: list(layer.weight.shape) for layer in self._pruner.layers},
            "train_seconds": round(seconds, 4), "epochs_trained": len(self.log.rows),
            "fingerprint": mark, "versions": versions(),
            "sha256": {"weights": _sha(weights), "masks": _sha(masks), "metrics": self._metrics_digest(result)},
        }  # fmt: skip
        about = {
            "kind": "trial", "trial": self.spec.name, "key": key, "status": record["status"], "states": folders,
            "fingerprint": mark,
        }  # fmt: skip
        store.seal(store.trial(run, self.spec.name), {RECORD: to_json(record), MASKS: masks, FINAL: weights}, about)
        return record

    def _result(self) -> dict[str, Any]:
        """The end of the trial, measured on the network as it is saved; nulls where it diverged."""
        pruner = self._pruner
        result: dict[str, Any] = {
            "sparsity_pct": pruner.sparsity_pct, "n_weights": pruner.n_weights, "n_kept": pruner.n_kept,
            "collapsed_layers": pruner.collapsed,
        }  # fmt: skip
        names = (
            "valid_loss",
            "valid_accuracy",
            "best_valid_accuracy",
            "test_loss",
            "test_accuracy",
            "early_stop_epoch",
        )
        if self.log.diverged:
            return result | dict.fromkeys(names)
        last_level = [row for row in self.log.rows if row["level"] == self.log.rows[-1]["level"]]
        early = min(last_level, key=lambda row: row["valid_loss"])
        valid, test = self._evaluate(1), self._evaluate(2)
        best = max(row["valid_accuracy"] for row in last_level)
        if self.spec.reset_end:  # the rows are of the trained network, the result of the untrained one under its mask
            return result | dict(zip(names, (*valid, None, *test, None), strict=True))
        return result | dict(zip(names, (*valid, best, *test, early["epoch"]), strict=True))

    def _evaluate(self, part: int) -> tuple[float, float]:
        """Mean loss and accuracy on a part of the data, through fastai's own validation loop."""
        self.learn.validate(ds_idx=part)
        return self.log.evaluation

    def _rewind_point(self) -> Snapshot | None:
        if self.spec.rewind_epoch is None:
            return None
        if isinstance(self.keeper, SparsifyCallback):
            return self.keeper.rewind_point
        return self.snapshots.get(self.spec.rewind_epoch)

    def _packed_masks(self) -> dict[str, Any]:
        levels = enumerate(self._pruner.levels, 1)
        return {f"{level}/{name}": pack(mask) for level, masks in levels for name, mask in masks.items()}

    def _layers(self) -> list[dict[str, Any]]:
        return [
            {
                "level": level, "layer": layer.parameter_name, "type": layer.type, "n_weights": layer.weight.numel(),
                "n_kept": counts[layer.parameter_name],
            }
            for level, counts in enumerate(self._pruner.counts_by_level)
            for layer in self._pruner.layers
        ]  # fmt: skip

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

    def _metrics_digest(self, result: Mapping[str, Any]) -> str:
        unlike = {"seconds", "trained_by"}
        return digest([[{k: v for k, v in row.items() if k not in unlike} for row in self.log.rows], result])


def _seal_state(store: Store, key: str, mark: Mapping[str, Any], snapshot: Snapshot) -> str:
    """Seal a snapshot's weights unless they are there already; returns their folder."""
    path = store.state(key, mark)
    try:
        present = store.find(path) is not None
    except Damaged:  # its content is here again, so it is written again
        present = False
    if not present:
        weights = save_tensors(_to_save(snapshot.weights))
        store.seal(path, {WEIGHTS: weights}, {"kind": "state", "key": key, "fingerprint": dict(mark)})
    return path


def _to_save(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies in memory of their own, row-major: safetensors takes no tensors that share memory, as tied weights do."""
    return {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
