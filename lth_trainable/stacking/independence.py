"""Whether members of a stack leave each other alone: the kernels that libraries choose for a step are tried first.

A library may compute a grouped convolution as a larger one whose other weights are zero. With finite numbers that is
the same; but a member that has diverged would then reach others, since zero times infinity is not zero. And kernels may
sum in another order in another slot.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lth_trainable.stacking.batches import Batches, n_evaluated, sizes_of
from lth_trainable.stacking.passes import Passes
from lth_trainable.stacking.run import NotStackable
from lth_trainable.stacking.slots import Slots
from lth_trainable.streams import all_streams_put_back

ROUNDING = 0.05  # of the norm, between runs of kernels that are not deterministic


def check_independence(passes: Passes, slots: Slots, batches: Batches) -> None:
    """Raise `NotStackable` unless steps and evaluations give each slot the same bytes, also beside NaN.

    The slots hold copies of one network; afterwards they do again. Batches have their real sizes, because libraries
    choose by them. If kernels need not be deterministic, it is only tried whether members that are not finite reach
    others.
    """
    if slots.k == 1:
        return
    device = batches.number.device
    with all_streams_put_back(), torch.no_grad():
        for size in sizes_of(batches):
            index = torch.arange(size, device=device)
            _check(slots, device, functools.partial(_step, passes, slots, batches, index))
        _check(slots, device, functools.partial(_evaluation, passes, slots, batches))


def updates_are_the_same(slots: Slots) -> bool:
    """Whether updates of all slots as if they were one network give the bytes of updates of each.

    Tried with random numbers, twice in each way from the same state. Weights and state are what they were afterwards.
    """
    names = slots.trained
    kept = {name: [slots.parameters[name].detach(), *slots.state[name].values()] for name in names}
    device = next(iter(slots.parameters.values())).device
    rate: Any = torch.tensor(0.01, device=device) if device.type == "cuda" else 0.01
    with all_streams_put_back(), torch.no_grad():
        for name in names:  # one after another: it takes little memory
            before = [value.clone() for value in kept[name]]
            gradients = [{name: torch.randn_like(before[0])} for _ in range(2)]
            ends = []
            for as_one in (False, True):
                for gradient in gradients:
                    if as_one:
                        slots.update_as_one(gradient, rate)
                    else:
                        slots.update_each(gradient, [range(slots.k)], [rate])
                if as_one:
                    slots.end_in_step()
                ends.append([value.clone() for value in kept[name]])
                for value, old in zip(kept[name], before, strict=True):
                    value.copy_(old)
            if not all(map(torch.equal, *ends)):
                return False
    return True


def _step(passes: Passes, slots: Slots, batches: Batches, index: Tensor) -> list[Tensor]:
    """Everything that a step on these images makes, of all slots."""
    for_all = index.unsqueeze(1).expand(-1, slots.k)
    images, labels = batches.of(for_all.contiguous() if batches.axis else for_all.t().contiguous())
    buffers = {name: value.clone() for name, value in slots.buffers.items()}
    found = passes.step(slots.parameters, buffers, images, labels, batches.seeds)
    return [found.predictions, found.losses, *found.gradients.values(), *buffers.values(), *found.replaced.values()]


def _evaluation(passes: Passes, slots: Slots, batches: Batches) -> list[Tensor]:
    """The scores of all slots on as many images as are evaluated at a time."""
    images = batches.shared(batches.loader.x[: n_evaluated(batches)])
    return [passes.scores(slots.parameters, slots.buffers, images, batches.seeds)]


def _check(slots: Slots, device: torch.device, compute: Callable[[], list[Tensor]]) -> None:
    k = slots.k
    same = torch.equal if device.type == "cpu" or torch.are_deterministic_algorithms_enabled() else _alike
    equal = compute()
    if any(not same(value[0], value[slot]) for value in equal for slot in range(1, k)):
        raise NotStackable(f"on {device.type}, equal networks in different slots come out different")
    odd = list(range(1, k - 1, 2)) or [1]
    for value in slots.parameters.values():
        value[odd] = torch.nan
    beside = compute()
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
