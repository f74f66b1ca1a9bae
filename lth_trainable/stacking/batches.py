"""The batches of K members at once: images gathered from the one copy of the data, each member in an order of its own.

Order, augmentation, learning rates and seeds of a run lie on the device, at addresses that stay the same, and so does
the number of the next batch. What makes a batch can therefore be captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lth_trainable.data.augment import Draws
from lth_trainable.data.loaders import ResidentLoader
from lth_trainable.data.splits import EVALUATION_BATCH
from lth_trainable.stacking.run import Run

Groups = tuple[tuple[int, ...], ...]
LARGEST_PASS = 2**26  # numbers in the images of all members that are evaluated at a time


class Batches:
    """Makes the batches of k members.

    side_by_side: images are (b, k, c, h, w) in memory that is (b, k * c, h, w), for convolutions; else (k, b, ...).
    """

    def __init__(self, loader: ResidentLoader, k: int, *, side_by_side: bool) -> None:
        self.loader, self.k, self.axis = loader, k, int(side_by_side)  # axis: of the members in a batch of images
        device, steps = loader.device, loader.steps_per_epoch
        self.number = torch.zeros(1, dtype=torch.int64, device=device)  # of the next batch of the run, on the device
        self.position = 0  # the same number here
        self._full = torch.zeros(steps, k * loader.bs, dtype=torch.int64, device=device)
        self._rest: dict[int, Tensor] = {}  # the order of a last batch, by its size
        self._seeds = torch.zeros(steps, k, dtype=torch.int64, device=device)
        self._rates = torch.zeros(steps, k, device=device)  # a column for each group of slots
        self._rates_here: list[tuple[float, ...]] = []
        self._draws: Draws | None = None  # of all members, side by side
        slots = torch.arange(k, device=device) * loader.n  # where the draws of each slot begin
        self._first_draw = slots if side_by_side else slots.unsqueeze(1)

    def begin(self, runs: Mapping[int, Run]) -> Groups:
        """Lay out the runs of these slots.

        Returns the slots in groups with equal learning rates; idle slots are in the first group.
        """
        first, n_full = next(iter(runs.values())), self._check(runs)
        of_slots = [runs.get(slot, first) for slot in range(self.k)]
        orders, bs = torch.stack([run.order.to(self.number.device) for run in of_slots]), self.loader.bs
        full, rest = orders[:, : n_full * bs], orders[:, n_full * bs :]
        self._full[:n_full].copy_(self._laid_out(full.view(self.k, n_full, bs).transpose(0, 1)))
        if rest.shape[1]:
            self._rest_of(rest.shape[1]).copy_(self._laid_out(rest.unsqueeze(0))[0])
        self._seeds[: len(first.sizes)].copy_(torch.from_numpy(np.array([run.seeds for run in of_slots])).t())
        for slot, run in runs.items():
            self._take_draws(slot, run.draws)
        self.number.zero_()
        self.position = 0
        return self._take_rates(of_slots)

    def next(self, size: int) -> tuple[Tensor, Tensor]:
        """Images and labels (k, size) of the next batch. What it does can be captured."""
        if size < self.loader.bs:
            index = self._rest_of(size)
        else:
            index = self._full.index_select(0, self.number).squeeze(0)
        return self.of(index.view((size, self.k) if self.axis else (self.k, size)))

    def of(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels (k, size) of these indices: (size, k) or (k, size), with the members on their axis."""
        labels = self.loader.y.index_select(0, index.reshape(-1)).view(index.shape)
        images = self._augmented(self._images(index), index)
        return images, labels.t() if self.axis else labels

    @property
    def seeds(self) -> Tensor:
        """The seed of each slot (k,) in the next batch."""
        return self._seeds.index_select(0, self.number).squeeze(0)

    def rates(self, groups: Groups) -> Sequence[Any]:
        """The learning rate of each group in the next batch: float32 tensors () on a GPU, else numbers."""
        if self.number.device.type == "cpu":
            return [rates[self.position] for rates in self._rates_here]
        return self._rates.index_select(0, self.number).squeeze(0).unbind(0)[: len(groups)]

    def shared(self, images: Tensor, n: int | None = None) -> Tensor:
        """Images (b, c, h, w) for all members, as `next` returns them. n: of that many; the first ones fill it up."""
        if n is not None and n > len(images):
            images = images.index_select(0, torch.arange(n, device=images.device) % len(images))
        if not self.axis:
            return images.unsqueeze(0).expand(self.k, *images.shape)
        return self._side_by_side(images.unsqueeze(1).expand(len(images), self.k, *images.shape[1:]))

    def _check(self, runs: Mapping[int, Run]) -> int:
        """Number of full batches. Raises ValueError if the runs do not go together."""
        sizes, bs = {run.sizes for run in runs.values()}, self.loader.bs
        one = min(sizes)
        if len(sizes) > 1 or not one or any(size != bs for size in one[:-1]) or not 0 < one[-1] <= bs:
            raise ValueError(
                f"runs of a stack: found batches of {sorted(sizes)}; expected the same in all, and of {bs} images but "
                "for the last"
            )
        return len(one) - (one[-1] < bs)

    def _laid_out(self, orders: Tensor) -> Tensor:
        """Orders (steps, k, size) as rows of indices, in the order in which images lie in a batch."""
        return (orders.transpose(1, 2) if self.axis else orders).flatten(1)

    def _rest_of(self, size: int) -> Tensor:
        if size not in self._rest:
            self._rest[size] = torch.zeros(self.k * size, dtype=torch.int64, device=self.number.device)
        return self._rest[size]

    def _take_draws(self, slot: int, draws: Draws | None) -> None:
        if (draws is None) != (self.loader.augment == "none"):
            raise ValueError(f"run: found {draws and 'draws'}; the loader's augmentation is {self.loader.augment}")
        if draws is not None:
            self._draws = self._draws or draws.repeated(self.k)
            self._draws.replace_part(slot, draws)

    def _take_rates(self, of_slots: Sequence[Run]) -> Groups:
        groups: dict[tuple[float, ...], list[int]] = {}
        for slot, run in enumerate(of_slots):
            groups.setdefault(run.rates, []).append(slot)
        self._rates_here = list(groups)
        if self.number.device.type != "cpu":
            rates = torch.tensor(self._rates_here).t()
            self._rates[: len(rates), : len(groups)].copy_(rates)
        return tuple(map(tuple, groups.values()))

    def _images(self, index: Tensor) -> Tensor:
        """The images of these indices, one axis of them all, laid out as those of the loader."""
        x, flat = self.loader.x, index.reshape(-1)
        if self.loader.channels_last:
            return x.permute(0, 2, 3, 1).index_select(0, flat).permute(0, 3, 1, 2)
        return x.index_select(0, flat)

    def _augmented(self, images: Tensor, index: Tensor) -> Tensor:
        if self._draws is not None:
            images = self._draws(images, (index + self._first_draw).view(-1))
        images = images.unflatten(0, index.shape)
        return self._side_by_side(images) if self.axis else images

    def _side_by_side(self, images: Tensor) -> Tensor:
        """Images (b, k, c, ...) with the members' channels side by side, in the loader's memory format."""
        if not self.loader.channels_last:
            return images.contiguous()
        return images.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)


def evaluated_at_once(batches: Batches, bs: int) -> int:
    """How many images, of a batch of `bs`, all members are evaluated on at a time."""
    return min(bs, max(1, LARGEST_PASS // (batches.k * batches.loader.x[0].numel())))


def sizes_of(batches: Batches) -> set[int]:
    """How many images of a member there are in the batches of an epoch."""
    loader = batches.loader
    return {min(loader.bs, loader.n), loader.n % loader.bs or loader.bs}


def n_evaluated(batches: Batches) -> int:
    """How many images of the training split all members are evaluated on at a time."""
    return min(evaluated_at_once(batches, EVALUATION_BATCH), batches.loader.n)
