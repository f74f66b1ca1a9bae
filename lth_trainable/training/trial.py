"""The network and learner of one trial, with the operations on them: train, prune, rewind, take the state."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from fastai.callback.core import Callback
from torch import nn

from lth_trainable.data.feeding import AnyDataset, loaders_of
from lth_trainable.errors import UserError, bad_value
from lth_trainable.models.flops import weight_uses
from lth_trainable.models.networks import build
from lth_trainable.pruning.callback import SparsifyCallback
from lth_trainable.pruning.controls import CONTROLS, Start, draws
from lth_trainable.pruning.criteria import CRITERIA
from lth_trainable.pruning.holder import Optimizer
from lth_trainable.pruning.inventory import take_inventory
from lth_trainable.pruning.layer_targets import Target
from lth_trainable.pruning.layers import LAYER_TYPES, prunable_layers
from lth_trainable.pruning.levels import Levels
from lth_trainable.pruning.pruner import Pruner
from lth_trainable.pruning.snapshot import Snapshot
from lth_trainable.registry import lookup
from lth_trainable.seeds import derive_seed
from lth_trainable.spec.segments import Segment
from lth_trainable.spec.ticket_id import SHORT
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stopwatch import part
from lth_trainable.store import image_bits
from lth_trainable.store.states import Memory, State
from lth_trainable.tickets.imported import ImportedTicket
from lth_trainable.training.captured import CapturedSteps
from lth_trainable.training.cohort import current_seat
from lth_trainable.training.compiled import compile_network
from lth_trainable.training.early_stop import make_early_stop
from lth_trainable.training.execution import Execution, versions
from lth_trainable.training.learner import EpochLog, LevelClock, finite, make_learner, seed_torch
from lth_trainable.training.measure import balanced_accuracy
from lth_trainable.training.stacked_steps import StackedSteps

OnEpoch = Callable[[list[dict[str, Any]]], None]
RANKS_TOGETHER = ("cuda",)  # devices on which one pass for all members of a cohort is faster than one after another
SAME_SPARSITY = Fraction(1, 10_000)  # a spec has the sparsity of an imported mask in percent, with two decimals


class Trial:
    """The network and learner of one trial. imported: the ticket that it starts from, if any."""

    @part("network")
    def __init__(
        self,
        spec: TrialSpec,
        data: AnyDataset,
        execution: Execution,
        on_epoch: OnEpoch | None,
        imported: ImportedTicket | None = None,
    ) -> None:
        self.spec, self.data, self.execution, self.imported = spec, data, execution, imported
        self.started, self.name = time.perf_counter(), spec.name
        self.model = self._new_model("init")
        if imported is not None:
            imported.start(self.model)
        order_seed = spec.seed if spec.order_seed is None else spec.order_seed
        with part("data"):
            self.dls = loaders_of(
                data, batch_size=spec.batch_size, order_seed=order_seed, device=execution.device,
                augment=spec.augment, channels_last=self._is_channels_last(self.model),
            )  # fmt: skip
        if execution.compile:
            compile_network(self.model, execution.threads)
        self.log = EpochLog(self._describe, on_epoch)
        self.early_stop = make_early_stop(spec, lambda: self.level)
        seat = current_seat()
        self.stacked = StackedSteps(seat) if seat is not None else None
        self.captured = CapturedSteps() if self.captures_steps and seat is None else None
        more = [steps for steps in (self.captured, self.stacked) if steps is not None]
        self.learn = make_learner(spec, self.model, self.dls, self.log, self.early_stop, *more)
        self.learn.create_opt()
        self.initial = Snapshot(self.model, self.learn.opt)
        self.callback = self._make_callback()
        if self.stacked is not None and self.dls.device.type in RANKS_TOGETHER:
            self.callback.ranker = self.stacked.rank
        self.learn.add_cb(self.callback)
        if spec.family != "fit":
            self.callback.begin(self.initial)

    @property
    def captures_steps(self) -> bool:
        """Whether its steps are CUDA graphs."""
        return self.dls.device.type == "cuda" and self.execution.step == "captured"

    @property
    def notes(self) -> list[str]:
        """Messages for the user about how the trial was trained."""
        found = []
        if self.captured is not None and self.captured.refusal is not None:
            what = f"a step of {self.spec.model} cannot be captured as a CUDA graph and runs eagerly"
            found.append(f"{what}: {self.captured.refusal}")
        if self.stacked is not None and self.stacked.refusal is not None:
            what = f"{self.spec.model} is not trained in a stack of {self.execution.replicas} networks"
            found.append(f"{what}, and without one --replicas 1 is faster: {self.stacked.refusal}")
        return found

    @property
    def steps_per_epoch(self) -> int:
        return self.dls.train.steps_per_epoch

    @property
    def pruner(self) -> Pruner | None:
        """The pruner; None for a schedule within one fit before that fit has started."""
        return self.callback.pruner

    @property
    def level(self) -> int:
        """Number of prunes so far."""
        return self.callback.level

    @part("storing")
    def initial_state(self, restarted: bool) -> State:
        """The initial state. restarted: that of the new initialisation with which a control starts over."""
        snapshot = self._new_initialisation() if restarted else self.initial
        return State(snapshot=snapshot, memory=Memory(), history=self._history(Memory(), measured=False))

    @part("storing")
    def state(self, measured: bool, optimizer: bool = True) -> State:
        """The current state, to be stored before anything changes: it holds no copies.

        measured: evaluate the network on the validation and the test split. optimizer: with the optimiser's state.
        """
        memory = Memory.of(self.pruner) if self.pruner is not None else Memory()
        history = self._history(memory, measured)
        snapshot = Snapshot.present(self.model, self.learn.opt if optimizer else None)
        return State(snapshot=snapshot, memory=memory, history=history)

    def go_to(self, state: State, rewind_point: Snapshot | None) -> None:
        """Restore `state`. rewind_point: what later resets within a fit return to, if that point has passed.

        Without an optimiser in the state, the learner's has no moments until the next rewind.
        """
        self.log.rows = list(state.history["rows"])
        self.early_stop.load_state(state.history["early_stop"])
        if self.spec.family == "fit":
            names = [layer.parameter_name for layer in prunable_layers(self.model, LAYER_TYPES[self.spec.layers])]
            first = {name: self.initial.tensors[name] for name in names}
            self.callback.load_state_dict({
                "levels": state.memory.levels, "asked": state.memory.requested_sparsity, "initial": first,
                "previous": state.memory.previous or first, "remembered": state.memory.last_scores,
                "first": self.initial.state(), "rewind_point": rewind_point.state() if rewind_point else None,
            })  # fmt: skip
        elif self.pruner is not None:
            state.memory.give(self.pruner)
        if state.snapshot.optimizer is None:
            self.learn.opt.clear_state()
            state.snapshot.restore(self.model)
        else:
            state.snapshot.restore(self.model, self.learn.opt)

    @part("training")
    def fit(self, start: int, end: int, level_clock: LevelClock, *more: Callback) -> None:
        """Train the epochs [start, end) of a level."""
        self.learn.clock.level_clock = level_clock
        self.learn.clock.start = start
        self.learn.fit(end - start, cbs=list(more))

    @part("training")
    def fit_all(self, start: int, *more: Callback) -> None:
        """Train the single fit of a schedule within one fit, from epoch `start` on."""
        self.learn.fit(self.spec.epochs, start_epoch=start, cbs=list(more))

    @part("pruning")
    def prune(self, segment: Segment) -> None:
        pruner = self.pruner
        assert pruner is not None
        target: Any = segment.sparsity
        if segment.output_sparsity is not None:
            target = dict.fromkeys(pruner.counts, segment.sparsity)
            target[pruner.layers[-1].parameter_name] = segment.output_sparsity
        self.callback.prune(target)

    @part("pruning")
    def apply_imported_mask(self, segment: Segment) -> None:
        """Apply the imported mask instead of pruning. Raises `UserError` if its sparsity is not that of the spec."""
        pruner, imported = self.pruner, self.imported
        assert pruner is not None and imported is not None
        found = imported.sparsity(list(pruner.counts))
        if abs(found - segment.sparsity) > SAME_SPARSITY:
            raise bad_value(
                f"ticket {imported.digest[:SHORT]}, sparsity", round(float(100 * segment.sparsity), 4),
                f"{float(100 * found):.4f} %, the sparsity of its mask in layers {self.spec.layers}",
            )  # fmt: skip
        pruner.apply_mask({name: imported.masks[name] for name in pruner.counts})

    def rewind(self, to: Snapshot | None) -> None:
        """After a prune: return to a snapshot, or continue from the pruned weights without one. Keeps the mask."""
        self.callback.rewind(to, self._optimizer_at_rewind(to))

    @part("pruning")
    def control(self, rewind_point: Snapshot | None) -> None:
        """Instead of the ticket's last rewind, load the control's start weights and apply its mask.

        Within one fit, the optimiser and everything else continue.
        """
        pruner, control = self.pruner, CONTROLS[self.spec.control]
        assert pruner is not None and pruner.in_force is not None
        if control.starts_over:
            optimizer = Optimizer.GOES_ON if self.spec.family == "fit" else Optimizer.EMPTY
            self.callback.return_to(self._new_initialisation(), optimizer)
        elif self.spec.family != "fit":
            self.callback.return_to(rewind_point, self._optimizer_at_rewind(rewind_point))
        else:
            assert rewind_point is not None
            self.callback.return_to(rewind_point, Optimizer.GOES_ON)
        draw = draws(self.spec.seed, len(pruner.levels))
        masks = {layer.parameter_name: pruner.in_force[layer.parameter_name] for layer in pruner.layers}
        pruner.replace_mask(control.masks(masks, pruner.axes, draw))
        new = self._new_initialisation().tensors if control.reads_new else {}
        for index, layer in enumerate(pruner.layers if control.weights is not None else ()):
            assert control.weights is not None
            name = layer.parameter_name
            start = Start(
                weights=layer.weight.detach().cpu().numpy(), mask=pruner.in_force[name], stream=draw(index),
                new=functools.partial(_array, new, name), flip_pct=self.spec.sign_flip_pct,
            )  # fmt: skip
            layer.weight.data.copy_(torch.from_numpy(control.weights(start)))

    def _optimizer_at_rewind(self, to: Snapshot | None) -> Optimizer:
        if self.spec.retrain == "lr_rewinding" or self.spec.rewind_optimizer == "fresh":
            return Optimizer.EMPTY
        return Optimizer.GOES_ON if to is None else Optimizer.RETURNS

    def _new_model(self, purpose: str) -> nn.Module:
        device = torch.device(self.execution.device)
        seed_torch(derive_seed(self.spec.seed, purpose), device)
        shape, n_classes = self.data.shape, len(self.data.classes)
        model = build(self.spec.model, shape, n_classes, self.spec.width_pct).to(device)
        return model.to(memory_format=torch.channels_last) if self._is_channels_last(model) else model

    def _is_channels_last(self, model: nn.Module) -> bool:
        """Whether images and weights are laid out so: on a GPU, for networks with convolutions of images."""
        on_gpu = torch.device(self.execution.device).type == "cuda"
        is_asked = on_gpu and self.execution.memory_format == "channels_last"
        return is_asked and any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in model.modules())

    def _new_initialisation(self) -> Snapshot:
        """Every tensor of a second initialisation with the trial's seed."""
        return Snapshot(self._new_model("control-init"))

    def _make_callback(self) -> SparsifyCallback:
        spec = self.spec
        more: dict[str, Any] = {
            "layer_type": LAYER_TYPES[spec.layers], "verbose": False, "seed": derive_seed(spec.seed, "criterion"),
        }  # fmt: skip
        if spec.family in ("dense", "imported"):  # these never compute scores
            return TrialCallback(0, "weight", "local", "large_final", None, rewind_epoch=None, **more)
        criterion = lookup("criterion", str(spec.criterion), CRITERIA)
        target, granularity, context = spec.target_sparsity_pct, str(spec.granularity), str(spec.context)
        assert target is not None
        if spec.family == "levels":
            levels = Levels(prune_rate=target if spec.prune_rate_pct is None else spec.prune_rate_pct)
            rewind_epoch = spec.rewind_epoch if spec.rewind_step is None else None  # the lifecycle saves an iteration
            return TrialCallback(target, granularity, context, criterion, levels, rewind_epoch=rewind_epoch, **more)
        make = SparsifyCallback if spec.control == "none" else functools.partial(ControlledCallback, self)
        return make(
            target, granularity, context, criterion, spec.make_schedule(), lth=spec.retrain == "tutorial",
            rewind_epoch=spec.rewind_epoch or 0, reset_end=spec.reset_end, **more,
        )  # fmt: skip

    def _describe(self) -> dict[str, Any]:
        sparsity = self.pruner.sparsity_pct if self.pruner is not None else 0.0
        return {"level": self.level, "sparsity_pct": sparsity, "trained_by": self.name}

    def _history(self, memory: Memory, measured: bool) -> dict[str, Any]:
        layers = prunable_layers(self.model, LAYER_TYPES["all"])
        inventory = take_inventory(self.model, layers, LAYER_TYPES["all"])
        return {
            "rows": list(self.log.rows),
            "weights": {
                layer.parameter_name: {
                    "layer": layer.name, "type": layer.type, "n": layer.weight.numel(),
                    "shape": list(layer.weight.shape), "uses": self._uses[layer.parameter_name],
                }
                for layer in layers
            },
            "all_weights": {"n": inventory.n_all, "not_pruned": inventory.by_reason()},
            "dead_filters": self.pruner.dead_filters if self.pruner is not None else {},
            "selections": {name: self._selected(name) for name in LAYER_TYPES},
            "counts": self.pruner.counts_by_level[1:] if self.pruner is not None else [],
            "asked": {name: str(value) for name, value in memory.requested_sparsity.items()},
            "evaluation": self.evaluation() if measured and not self.log.diverged else None,
            "early_stop": self.early_stop.state(),
            "diverged": self._reason(), "data": self._about_data(), "versions": dict(versions()),
        }  # fmt: skip

    def _selected(self, layers: str) -> list[str]:
        try:
            return [layer.parameter_name for layer in prunable_layers(self.model, LAYER_TYPES[layers])]
        except UserError:  # no layer of this type, so no trial of this network selects it
            return []

    def evaluation(self) -> dict[str, Any]:
        """Loss and accuracy of the current network on validation and test split, with balanced test accuracy, and the
        images of both that it gets right.

        A loss that is not finite is None: the network is stored as it is, and was finite when it was last trained.
        """
        valid, test = (self.learn.measure(self.dls[index]) for index in (1, 2))
        return {
            "valid": [finite(valid.loss), valid.accuracy], "test": [finite(test.loss), test.accuracy],
            "balanced_accuracy": balanced_accuracy(self.dls[2].y, test.right),
            "right": {
                name: image_bits.pack(found.right.cpu().numpy()) for name, found in (("valid", valid), ("test", test))
            },
        }  # fmt: skip

    @functools.cached_property
    def _uses(self) -> dict[str, int]:
        return weight_uses(self.model, self.dls.valid.one_batch()[0][:2])

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


def _array(tensors: Mapping[str, torch.Tensor], name: str) -> Any:
    return tensors[name].cpu().numpy()


class TrialCallback(SparsifyCallback):
    """The callback of a trial whose levels are fits of their own; its epochs are those of the trial's clock."""

    @property
    def now(self) -> int:
        return int(self.learn.clock.now)

    @property
    def is_as_left(self) -> bool:
        """A trial restores its states itself, between its fits."""
        return True


class ControlledCallback(SparsifyCallback):
    """The callback for a control of a ticket within one fit, or for the dense network with the ticket's resets."""

    def __init__(self, trial: Trial, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.trial = trial

    def _prune(self, sparsity: Target) -> None:
        super()._prune(Fraction(0) if self.trial.spec.restarts else sparsity)

    def on_ticket(self) -> None:
        if not self.trial.spec.restarts:
            self.trial.control(self.rewind_point)
