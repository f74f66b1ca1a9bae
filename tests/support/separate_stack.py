"""A stand-in for a stack: K networks side by side, each trained by ordinary steps, with the bytes of a trial alone."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lth_trainable.data.augment import Draws
from lth_trainable.pruning.snapshot import Snapshot
from lth_trainable.stacking.marks import AtMark
from lth_trainable.stacking.run import Run
from lth_trainable.stacking.slots import Member
from lth_trainable.training.learner import seed_torch
from lth_trainable.training.measure import Sums, evaluate


class SeparateStack:
    """Has the methods of `Stack`. calls: what was trained or measured together, by slots."""

    calls: list[tuple[str, tuple[int, ...]]]

    def __init__(
        self, model: nn.Module, optimizer: Any, loader: Any, loss_func: Any, precision: str, k: int,
        compiler: None = None,
    ) -> None:  # fmt: skip
        self.loader, self.loss_func = loader, loss_func
        self.models = [copy.deepcopy(model) for _ in range(k)]
        self.optimizers = [_same_kind(optimizer, own) for own in self.models]
        self.factors: dict[int, Mapping[str, Tensor]] = {}
        self.found: dict[int, list[AtMark]] = {}
        self.kept_models: dict[int, Snapshot] = {}
        SeparateStack.calls = []

    @torch.no_grad()
    def load_all(self, members: Mapping[int, Member]) -> None:
        for slot, member in members.items():
            _copy(member.model, self.models[slot])
            self.optimizers[slot].load_state_dict(copy.deepcopy(member.optimizer.state_dict()))
            self.factors[slot] = dict(member.factors)

    @torch.no_grad()
    def unload_all(self, members: Mapping[int, Member]) -> None:
        for slot, member in members.items():
            _copy(self.models[slot], member.model)
            member.optimizer.load_state_dict(copy.deepcopy(self.optimizers[slot].state_dict()))

    def train(self, runs: Mapping[int, Run], valid: Any = None) -> dict[int, Tensor]:
        self.calls.append(("train", tuple(runs)))
        assert len({run.sizes for run in runs.values()}) == 1
        self.found = {slot: [] for slot in runs}
        return {slot: self._train(slot, run, valid) for slot, run in runs.items()}

    def at_marks(self, runs: Mapping[int, Run]) -> dict[int, list[AtMark]]:
        return {slot: self.found[slot] for slot in runs}

    def kept(self, models: Mapping[int, nn.Module]) -> dict[int, dict[str, Tensor]]:
        return {slot: self.kept_models[slot].tensors for slot in models}

    def evaluate(self, slots: Sequence[int], loader: Any) -> dict[int, Sums]:
        self.calls.append(("evaluate", tuple(slots)))
        return {slot: evaluate(self.models[slot], loader, self.loss_func) for slot in slots}

    def _train(self, slot: int, run: Run, valid: Any) -> Tensor:
        model, optimizer, losses = self.models[slot], self.optimizers[slot], []
        model.train()
        draws: Draws | None = run.draws
        start, lowest = 0, run.lowest
        for size, rate, seed in zip(run.sizes, run.rates, run.seeds, strict=True):
            seed_torch(int(seed), self.loader.device)
            for group in optimizer.param_groups:
                group["lr"] = rate
            x, y = self.loader.batch(run.order[start : start + size], draws)
            loss = self.loss_func(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            parameters = dict(model.named_parameters())
            with torch.no_grad():
                for name, factor in self.factors[slot].items():
                    parameters[name].mul_(factor)
            losses.append(loss.detach())
            start += size
            if (keep := run.marks.get(len(losses))) is not None:
                lowest = self._at_mark(slot, valid, lowest, keep)
        return torch.stack(losses)

    def _at_mark(self, slot: int, valid: Any, lowest: float, keep: bool) -> float:
        loss, correct, _ = map(torch.Tensor.tolist, evaluate(self.models[slot], valid, self.loss_func))
        is_kept = keep and math.isfinite(loss) and loss / valid.n < lowest
        self.found[slot].append(AtMark(loss, correct, is_kept))
        if not is_kept:
            return lowest
        self.kept_models[slot] = Snapshot(self.models[slot])
        return loss / valid.n


def _same_kind(optimizer: Any, model: nn.Module) -> Any:
    known = inspect.signature(type(optimizer)).parameters
    return type(optimizer)(model.parameters(), **{k: v for k, v in optimizer.defaults.items() if k in known})


def _copy(source: nn.Module, target: nn.Module) -> None:
    for own, other in zip(target.parameters(), source.parameters(), strict=True):
        own.copy_(other)
    for own, other in zip(target.buffers(), source.buffers(), strict=True):
        own.copy_(other)
