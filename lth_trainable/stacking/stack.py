"""K networks of one shape, trained as one: one forward pass, one backward pass, one update a step.

What a member gets depends on K and on nothing else of the stack: not on its slot, not on who the others are or how
many. All arithmetic is that of one slot: products of a batch of matrices, convolutions of one group of channels, norms
of one channel, updates of one tensor. Idle slots compute along with whatever they hold.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lth_trainable.data.loaders import ResidentLoader
from lth_trainable.pruning.layers import named_tensors
from lth_trainable.silence import pulse
from lth_trainable.stacking.batches import Batches, Groups, evaluated_at_once, n_evaluated
from lth_trainable.stacking.independence import check_independence, updates_are_the_same
from lth_trainable.stacking.marks import AtMark, Marks
from lth_trainable.stacking.network import StackedNetwork, convolves
from lth_trainable.stacking.optimisers import update_of
from lth_trainable.stacking.passes import Compiler, passes_of
from lth_trainable.stacking.probe import check, check_compiled
from lth_trainable.stacking.replays import Replays
from lth_trainable.stacking.run import NotStackable, Run
from lth_trainable.stacking.slots import Member, Slots
from lth_trainable.tensors import copy_all


class Evaluated(NamedTuple):
    """The sum of the losses over images, the number of right answers; is each image right, (n,) bool on the device."""

    loss: float
    correct: float
    right: Tensor


class Stack:
    """K slots for members with a network like `model` and an optimiser like `optimizer`; these are copied, not changed.

    loader: of the training split; its batch size is that of the members, its data are used by all of them. precision:
    "fp32", "tf32" or "bf16"; the first two are settings of the process. compiler: what steps and evaluations go
    through, if anything. Raises `NotStackable` if such a network cannot be trained so; it is tried with a few images.

        stack = Stack(model, optimizer, loader, loss_func, "fp32", k=8)
        stack.load_all({0: Member(model=..., optimizer=..., factors=...), ...})
        losses = stack.train({0: Run(...), ...})
        stack.unload_all({0: ..., ...})

    After `train`, the contents of slots that had no run are lost: load them anew.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, loader: ResidentLoader, loss_func: Any,
        precision: str, k: int, compiler: Compiler | None = None,
    ) -> None:  # fmt: skip
        if precision == "fp16":
            raise NotStackable("fp16 scales each member's loss by what its gradients were")
        if precision == "tf32" and convolves(model):
            raise NotStackable("grouped convolutions in TF32 were a tenth off on an H200 (cuDNN, torch 2.11)")
        self.k, self.device = k, loader.device
        self._autocast = functools.partial(
            torch.autocast, self.device.type, torch.bfloat16, enabled=precision == "bf16"
        )  # fmt: skip
        self.slots = Slots(model, update_of(optimizer), k)
        self.network = StackedNetwork(model, loss_func)
        self.batches = Batches(loader, k, side_by_side=self.network.convolves)
        self._losses = torch.zeros(loader.steps_per_epoch, k, device=self.device)  # of each batch of a run
        self._rows = torch.arange(loader.steps_per_epoch, device=self.device).unsqueeze(1)
        self._marks: Marks | None = None  # from the first run with marks on
        self._replays = Replays(self.device, waits_at_first=compiler is not None)
        check(self.network, self.slots, self.batches)
        self._whole: int | None = None  # so many images are always evaluated at a time
        of_stack = self.network, self.batches.axis, frozenset(self.slots.trained)
        self._passes = passes_of(*of_stack, self._autocast, compiler)
        if compiler is not None:  # which compiles, and has checked, one size
            self._whole = n_evaluated(self.batches)
            plain, exact = passes_of(*of_stack, self._autocast), passes_of(*of_stack, contextlib.nullcontext)
            check_compiled(self._passes, plain, exact, self.slots, self.batches)
        check_independence(self._passes, self.slots, self.batches)
        self.slots.updates_whole = self.device.type == "cuda" and updates_are_the_same(self.slots)

    @property
    def refusal(self) -> str | None:
        """Why steps are not CUDA graphs; None if they are."""
        return self._replays.refusal

    # -- members in and out ------------------------------------------------------------------------------------------

    def load_all(self, members: Mapping[int, Member]) -> None:
        """Copy members into their slots, with a few calls for all of them."""
        self.slots.load(members)

    def unload_all(self, members: Mapping[int, Member]) -> None:
        """Copy slots back into their members, all but the masks."""
        self.slots.unload(members)

    # -- training ----------------------------------------------------------------------------------------------------

    def train(self, runs: Mapping[int, Run], valid: ResidentLoader | None = None) -> dict[int, Tensor]:
        """Train runs of equal sizes, by slot. Returns the mean loss of each batch, (batches,), by slot.

        valid: the split that is measured at marks. The losses are on the device; nothing waits for it.
        """
        if not runs:
            return {}
        groups, marks = self.batches.begin(runs), self._begin_marks(runs, valid)
        sizes, as_one = next(iter(runs.values())).sizes, len(groups) == 1 and self.slots.are_in_step(runs)
        for done, size in enumerate(sizes, 1):
            kind = "step", size, self.slots.n_masks
            self._replays.run(kind, functools.partial(self._step, size, groups, as_one), (groups, as_one))
            self.batches.position += 1
            pulse.step()
            if done in marks and valid is not None:
                work, reads = functools.partial(self._at_mark, valid), (valid.x, valid.y)
                self._replays.run(("mark", id(valid.x)), work, reads=reads)
        if as_one:
            self.slots.end_in_step()
        losses = self._losses[: len(sizes)].t().clone()  # later runs use the same memory
        return {slot: losses[slot] for slot in runs}

    def at_marks(self, runs: Mapping[int, Run]) -> dict[int, list[AtMark]]:
        """What was found at the marks of these runs, which were trained last, by slot. Waits for the device."""
        if self._marks is None or not any(run.marks for run in runs.values()):
            return {slot: [] for slot in runs}
        return self._marks.read(runs)

    def kept(self, models: Mapping[int, nn.Module]) -> dict[int, dict[str, Tensor]]:
        """Copies of the weights that were kept last at a mark of these slots: for each the tensors of its network."""
        found: dict[int, dict[str, Tensor]] = {}
        targets, sources = list[Tensor](), list[Tensor]()
        for slot, model in models.items():
            assert self._marks is not None
            kept = self._marks.kept_of(slot)
            own = {id(tensor): kept[name] for name, tensor in self.slots.tensors_of(model)}
            for name, tensor in named_tensors(model).items():  # shared ones are there under several names
                copy = found.setdefault(slot, {})[name] = torch.empty_like(tensor, requires_grad=False)
                targets.append(copy)
                sources.append(own[id(tensor)])
        copy_all(targets, sources)
        return found

    def _begin_marks(self, runs: Mapping[int, Run], valid: ResidentLoader | None) -> set[int]:
        """Returns the batches after which the split is measured."""
        if not any(run.marks for run in runs.values()):
            return set()
        assert valid is not None, "what is measured at marks?"
        self._marks = self._marks or Marks(self.slots, len(self._losses), self.device)
        return set(self._marks.begin(runs, valid.n))

    def _step(self, size: int, groups: Groups, as_one: bool) -> None:
        """Train the next batch. as_one: see `Slots.step`. What it does on a device can be captured."""
        batches, slots = self.batches, self.slots
        images, labels = batches.next(size)
        found = self._passes.step(slots.parameters, slots.buffers, images, labels, batches.seeds)
        for name, value in found.replaced.items():
            slots.buffers[name].copy_(value)
        slots.step(found.gradients, groups, batches.rates(groups), as_one)
        torch.where(self._rows == batches.number, found.losses, self._losses, out=self._losses)
        batches.number.add_(1)

    # -- evaluation --------------------------------------------------------------------------------------------------

    def evaluate(self, slots: Sequence[int], loader: ResidentLoader) -> dict[int, Evaluated]:
        """The results of these slots on all images of a loader."""
        work = functools.partial(self._sums, loader)
        sums, right = self._replays.run(("evaluation", id(loader.x)), work, reads=(loader.x, loader.y))
        found, all_right = sums.tolist(), right.clone()
        return {slot: Evaluated(found[slot][0], found[slot][1], all_right[slot]) for slot in slots}

    @torch.no_grad()
    def _sums(self, loader: ResidentLoader) -> tuple[Tensor, Tensor]:
        """Sums of losses and of right answers (k, 2); is each image right, (k, n) bool. It can be captured."""
        slots, loss = self.slots, torch.zeros(self.k, device=self.device)
        right = []
        seeds = torch.zeros(self.k, dtype=torch.int64, device=self.device)
        size = self._whole or evaluated_at_once(self.batches, loader.bs)
        for x, y in zip(loader.x.split(size), loader.y.split(size), strict=True):
            images, labels = self.batches.shared(x, self._whole), y.expand(self.k, -1)
            output = self._passes.scores(slots.parameters, slots.buffers, images, seeds)[:, : len(y)]
            with self._autocast():
                loss += self.network.losses(output, labels) * len(y)
            right.append(output.argmax(2) == labels)
            pulse.beat()
        all_right = torch.cat(right, 1)
        return torch.stack([loss.double(), all_right.sum(1).double()], 1), all_right

    def _at_mark(self, valid: ResidentLoader) -> None:
        assert self._marks is not None
        sums, _ = self._sums(valid)
        self._marks.take(sums)
