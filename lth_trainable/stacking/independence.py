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

ROUNDING = 0.05  # of the norm, between runs of kernels that are not deterministic


def check_independence(
    network: StackedNetwork, slots: Slots, batches: Batches, autocast: Callable[[], AbstractContextManager[object]]
) -> None:
    """Raise `NotStackable` unless a step gives each slot the same bytes, also beside members that are not finite.

    The slots hold copies of one network; afterwards they do again. Batches have their real sizes, because libraries
    choose by them. If kernels need not be deterministic, it is only tried whether members that are not finite reach
    others.
    """
    loader, device = batches.loader, batches.number.device
    if slots.k == 1:
        return
    with all_streams_put_back(), torch.no_grad():
        for size in {min(loader.bs, loader.n), loader.n % loader.bs or loader.bs}:
            _check(network, slots, batches, autocast, torch.arange(size, device=device))


def _check(
    network: StackedNetwork, slots: Slots, batches: Batches,
    autocast: Callable[[], AbstractContextManager[object]], index: Tensor,
) -> None:  # fmt: skip
    k, device = slots.k, index.device
    for_all = index.unsqueeze(1).expand(-1, k)
    images, labels = batches.of(for_all.contiguous() if batches.axis else for_all.t().contiguous())

    @torch.enable_grad()
    def step() -> list[Tensor]:
        buffers = {name: value.clone() for name, value in slots.buffers.items()}
        network.module.train()
        with autocast():
            predictions, replaced = network(slots.parameters, buffers, images, batches.axis, batches.seeds)
            losses = network.losses(predictions.float(), labels)
        found = gradients(losses, slots.parameters)
        return [predictions.detach(), losses.detach(), *found.values(), *buffers.values(), *replaced.values()]

    same = torch.equal if device.type == "cpu" or torch.are_deterministic_algorithms_enabled() else _alike
    equal = step()
    if any(not same(value[0], value[slot]) for value in equal for slot in range(1, k)):
        raise NotStackable(f"on {device.type}, equal networks in different slots come out different")
    odd = list(range(1, k - 1, 2)) or [1]
    for value in slots.parameters.values():
        value[odd] = torch.nan
    beside = step()
    for value in slots.parameters.values():
        value[odd] = value[0].clone()
    others = [slot for slot in range(k) if slot not in odd]
    if any(not same(a[slot], b[slot]) for a, b in zip(equal, beside, strict=True) for slot in others):
        raise NotStackable(f"on {device.type}, a member that diverges would change others")


def _alike(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    return bool((one - other).norm() <= ROUNDING * (one.norm() + 1)) and bool(other.isfinite().all())
