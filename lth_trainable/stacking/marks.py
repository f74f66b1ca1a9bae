"""What a stack finds and keeps on the way, while it trains: results at marks, and weights at each member's best mark.

A mark is a point between two batches at which the validation split is measured. All of it stays on the device, at
addresses that stay the same, so what is done at a mark can be captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lth_trainable.stacking.run import Run
from lth_trainable.stacking.slots import Slots


class AtMark(NamedTuple):
    """Sums over the validation split at a mark: losses, right answers; and whether the weights there were kept."""

    loss: float
    correct: float
    is_kept: bool


class Marks:
    """Results at up to `most` marks of a run, and a copy of each slot at its best one. It takes the memory of weights.

    Kept are weights whose mean loss is finite and less than at every mark before, and than the member's lowest loss
    before the run. The comparison is in double precision, so it is the one that Python makes with the same sums.
    """

    def __init__(self, slots: Slots, most: int, device: torch.device) -> None:
        self.slots, k = slots, slots.k
        self.kept = {name: torch.empty_like(value, requires_grad=False) for name, value in slots.tensors.items()}
        self._views = {name: value.unbind(0) for name, value in self.kept.items()}
        self._number = torch.zeros(1, dtype=torch.int64, device=device)  # of the next mark
        self._numbers = torch.arange(most, device=device).view(-1, 1, 1)
        self._results = torch.zeros(most, k, 3, dtype=torch.float64, device=device)
        self._may_keep = torch.zeros(most, k, dtype=torch.bool, device=device)
        self._lowest = torch.zeros(k, dtype=torch.float64, device=device)
        self._n = torch.ones(k, dtype=torch.float64, device=device)  # images of the split
        self._batches: Sequence[int] = ()  # after which the marks of this run are

    def begin(self, runs: Mapping[int, Run], n: int) -> Sequence[int]:
        """Before the runs of these slots. n: images of the split. Returns the batches after which there is a mark."""
        self._batches = sorted({batch for run in runs.values() for batch in run.marks})
        of_slots = [runs.get(slot) for slot in range(self.slots.k)]
        may_keep = [[run is not None and run.marks.get(batch, False) for run in of_slots] for batch in self._batches]
        lowest = [torch.inf if run is None else run.lowest for run in of_slots]
        self._may_keep[: len(may_keep)].copy_(torch.tensor(may_keep))
        self._lowest.copy_(torch.tensor(lowest, dtype=torch.float64))
        self._n.fill_(n)
        self._number.zero_()
        return self._batches

    @torch.no_grad()
    def take(self, sums: Tensor) -> None:
        """Take the sums (k, 2) of all slots at the next mark. What it does can be captured."""
        mean = sums[:, 0] / self._n  # by a tensor: CUDA multiplies with the inverse of a number, which rounds otherwise
        may_keep = self._may_keep.index_select(0, self._number).squeeze(0)
        is_kept = may_keep & mean.isfinite() & (mean < self._lowest)
        torch.where(is_kept, mean, self._lowest, out=self._lowest)
        for name, value in self.slots.tensors.items():
            here = is_kept.view(-1, *[1] * (value.ndim - 1))
            torch.where(here, value.detach(), self.kept[name], out=self.kept[name])
        results = torch.cat([sums, is_kept.double().unsqueeze(1)], 1)
        torch.where(self._numbers == self._number, results, self._results, out=self._results)
        self._number.add_(1)

    def read(self, runs: Mapping[int, Run]) -> dict[int, list[AtMark]]:
        """What the last runs have found, each at its own marks, by slot. Waits for the device."""
        found = self._results[: len(self._batches)].tolist()
        return {
            slot: [
                AtMark(loss, correct, bool(is_kept))
                for batch, (loss, correct, is_kept) in zip(self._batches, (row[slot] for row in found), strict=True)
                if batch in run.marks
            ]
            for slot, run in runs.items()
        }

    def kept_of(self, slot: int) -> dict[str, Tensor]:
        """The weights and buffers of a slot that were kept last, by name: views, which later runs change."""
        return {name: views[slot] for name, views in self._views.items()}
