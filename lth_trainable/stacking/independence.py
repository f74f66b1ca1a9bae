"""Whether members of a stack leave each other alone: the kernels that libraries choose for a step are tried first.

A library may compute a grouped convolution as a larger one whose other weights are zero. With finite numbers that is
the same; but a member that has diverged would then reach others, since zero times infinity is not zero. And kernels may
sum in another order in another slot.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from lth_trainable.stacking.batches import Batches
from lth_trainable.stacking.network import StackedNetwork, gradients
from lth_trainable.stacking.run import NotStackable
from lth_trainable.stacking.slots import Slots
from lth_trainable.streams import all_streams_put_back


def check_independence(
    network: StackedNetwork, slots: Slots, batches: Batches, autocast: Callable[[], AbstractContextManager[object]]
) -> None:
    """Raise `NotStackable` unless a step gives each slot the same bytes, also beside members that are not finite.

    The slots hold copies of one network; afterwards they do again. Batches have their real size, because libraries
    choose by it.
    """
    k, n, device = slots.k, min(batches.loader.bs, batches.loader.n), batches.number.device
    index = torch.arange(n, device=device).unsqueeze(1).expand(n, k)
    images, labels = batches.of(index.contiguous() if batches.axis else index.t().contiguous())
    if k == 1:
        return

    def step() -> list[Tensor]:
        buffers = {name: value.clone() for name, value in slots.buffers.items()}
        network.module.train()
        with autocast():
            predictions, replaced = network(slots.parameters, buffers, images, batches.axis, batches.seeds)
            losses = network.losses(predictions.float(), labels)
        found = gradients(losses, slots.parameters)
        return [predictions.detach(), losses.detach(), *found.values(), *buffers.values(), *replaced.values()]

    with all_streams_put_back(), torch.no_grad():
        with torch.enable_grad():
            equal = step()
        if any(not _same(value[0], value[slot]) for value in equal for slot in range(1, k)):
            raise NotStackable(f"on {device.type}, equal networks in different slots come out different")
        odd = list(range(1, k - 1, 2)) or [1]
        for value in slots.parameters.values():
            value[odd] = torch.nan
        with torch.enable_grad():
            beside = step()
        for value in slots.parameters.values():
            value[odd] = value[0].clone()
        others = [slot for slot in range(k) if slot not in odd]
        if any(not _same(a[slot], b[slot]) for a, b in zip(equal, beside, strict=True) for slot in others):
            raise NotStackable(f"on {device.type}, a member that diverges would change others")


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num()) if one.is_floating_point() else torch.equal(one, other)
