"""Whether a network computes the same in a stack as alone: it is tried with a few images at first."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lth_trainable.errors import words_of
from lth_trainable.stacking.batches import Batches
from lth_trainable.stacking.dropout import SeededDropout
from lth_trainable.stacking.network import Named, StackedNetwork, call, gradients
from lth_trainable.stacking.run import NotStackable
from lth_trainable.stacking.slots import Slots
from lth_trainable.streams import all_streams_put_back

IMAGES = 16  # of each member
_OF_ALL_MODULES = vars(nn.Module()).keys()
TOLERANCE = 0.02  # of the norm; TF32 stays below it, mistakes are of the order of 1


def check(network: StackedNetwork, slots: Slots, batches: Batches) -> None:
    """Make one step of all slots, without an update. Raises `NotStackable` unless it is that of the network alone."""
    try:
        with all_streams_put_back():
            _check(network, slots, batches)
    except (NotStackable, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # each network fails in its own way
        raise NotStackable(f"torch.func.vmap cannot run it ({type(error).__name__}: {words_of(error)})") from error


def _check(network: StackedNetwork, slots: Slots, batches: Batches) -> None:
    k, device, loader = slots.k, batches.number.device, batches.loader
    n = min(IMAGES, loader.bs, loader.n)
    index = (torch.arange(k * n, device=device) % loader.n).view((n, k) if batches.axis else (k, n))
    images, labels = batches.of(index)
    seeds = torch.arange(1, k + 1, device=device)
    buffers = {name: value.clone() for name, value in slots.buffers.items()}
    before = _hidden(network.module)
    network.module.train()
    predictions, replaced = network(slots.parameters, buffers, images, batches.axis, seeds)
    if not isinstance(predictions, Tensor) or predictions.ndim != 3:
        raise NotStackable("its output is not a tensor of scores (images, classes)")
    found = gradients(network.losses(predictions, labels), slots.parameters)
    changed = [name for name, value in _hidden(network.module).items() if not _same(value, before.get(name))]
    if changed:
        raise NotStackable(f"a step changes what its members would share: {', '.join(changed)}")
    for slot in {0, k - 1}:
        alone = _alone(network, slots, slot, images.select(batches.axis, slot), labels[slot], seeds[slot])
        stacked = (
            {name: value[slot] for name, value in found.items()},
            {name: value[slot] for name, value in {**buffers, **replaced}.items()},
        )
        _compare("outputs", [predictions[slot]], [alone[0]])
        for what, here, there in zip(("gradients", "buffers"), stacked, alone[1:], strict=True):
            if here.keys() != there.keys():
                raise NotStackable(f"its {what} are those of other parameters than alone")
            _compare(what, list(here.values()), [there[name] for name in here])


def _alone(
    network: StackedNetwork, slots: Slots, slot: int, images: Tensor, labels: Tensor, seed: Tensor
) -> tuple[Tensor, Named, Named]:
    """Output, gradients and buffers of one slot's network by itself."""
    parameters = {
        name: value.detach()[slot].clone().requires_grad_(value.requires_grad)
        for name, value in slots.parameters.items()
    }
    buffers = {name: value[slot].clone() for name, value in slots.buffers.items()}
    with SeededDropout(seed):
        output, replaced = call(network.module, parameters, buffers, images)
    return output.detach(), gradients(network.loss_func(output, labels), parameters), {**buffers, **replaced}


@torch.no_grad()
def _compare(what: str, stacked: Sequence[Tensor], alone: Sequence[Tensor]) -> None:
    """Raise `NotStackable` if the tensors differ by more than rounding."""
    one, other = (torch.cat([torch.zeros(1), *(t.double().cpu().flatten() for t in ts)]) for ts in (stacked, alone))
    distance, norm = float((one - other).norm()), float(other.norm())
    if math.isfinite(norm) and not distance <= TOLERANCE * norm + torch.finfo(torch.float32).eps:
        raise NotStackable(f"its {what} differ from those of the network alone: by {distance:.2g}, norm {norm:.2g}")


def _hidden(module: nn.Module) -> dict[str, Any]:
    """What modules hold beside parameters and buffers, and Python's random streams: members would share it."""
    found: dict[str, Any] = {
        "Python's random stream": random.getstate(),
        "NumPy's random stream": repr(np.random.get_state()),  # noqa: NPY002
    }
    for place, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in _OF_ALL_MODULES:
                found[f"{place}.{name}".lstrip(".")] = _snapshot(value)
    return found


def _snapshot(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    return type(value), len(value) if hasattr(value, "__len__") else None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)
