"""Whether a network computes the same in a stack as alone: it is tried with a few images at first."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lth_trainable.errors import words_of
from lth_trainable.stacking.batches import Batches, n_evaluated, sizes_of
from lth_trainable.stacking.dropout import SeededDropout
from lth_trainable.stacking.network import Named, StackedNetwork, call, gradients
from lth_trainable.stacking.passes import Passes
from lth_trainable.stacking.run import NotStackable
from lth_trainable.stacking.slots import Slots
from lth_trainable.streams import all_streams_put_back

IMAGES = 16  # of each member
_OF_ALL_MODULES = vars(nn.Module()).keys()
EXACT = 0.01  # of the norm: what may be off where a network alone is exact; mistakes are of the order of 1
COMPILED = 0.05  # of the norm: what may be off by compiling; a rounding that switches a ReLU moves gradients
HOW = "compiled", "not compiled"
AS_ALONE = 3  # times the rounding of the network alone; TF32 rounds a lot where convolutions follow each other

Found = tuple[Tensor, Named, Named]  # outputs, gradients and buffers


def check(network: StackedNetwork, slots: Slots, batches: Batches) -> None:
    """Make a step of all slots, without an update, and evaluate them.

    Raises `NotStackable` unless both are those of the network alone.
    """
    try:
        with all_streams_put_back():
            for training in (True, False):
                network.module.train(training)
                _check(network, slots, batches)
    except (NotStackable, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # each network fails in its own way
        raise NotStackable(f"torch.func.vmap cannot run it ({type(error).__name__}: {words_of(error)})") from error


def check_compiled(compiled: Passes, plain: Passes, exact: Passes, slots: Slots, batches: Batches) -> None:
    """Compile steps and evaluations of the sizes that there will be.

    Raises `NotStackable` unless they give what they give without the compiler (plain), but for rounding. exact: without
    bf16 too. Each member has images of its own.
    """
    k, device, loader = slots.k, batches.number.device, batches.loader
    seeds = torch.arange(1, k + 1, device=device)

    def step(passes: Passes, images: Tensor, labels: Tensor) -> Found:
        buffers = {name: value.clone() for name, value in slots.buffers.items()}
        found = passes.step(slots.parameters, buffers, images, labels, seeds)
        return found.predictions, found.gradients, {**buffers, **found.replaced}

    def evaluation(passes: Passes, images: Tensor) -> Found:
        return passes.scores(slots.parameters, slots.buffers, images, seeds), {}, {}

    def compare(make: Callable[..., Found], *batch: Tensor) -> None:
        _compare(make(compiled, *batch), make(plain, *batch), make(exact, *batch), COMPILED, *HOW)

    with all_streams_put_back():
        for size in sizes_of(batches):
            index = torch.arange(k * size, device=device) % loader.n
            compare(step, *batches.of(index.view((size, k) if batches.axis else (k, size))))
        compare(evaluation, batches.shared(loader.x[: n_evaluated(batches)]))


def _check(network: StackedNetwork, slots: Slots, batches: Batches) -> None:
    k, device, loader = slots.k, batches.number.device, batches.loader
    n = min(IMAGES, loader.bs, loader.n)
    index = (torch.arange(k * n, device=device) % loader.n).view((n, k) if batches.axis else (k, n))
    images, labels = batches.of(index)
    seeds = torch.arange(1, k + 1, device=device)
    buffers = {name: value.clone() for name, value in slots.buffers.items()}
    before = _hidden(network.module)
    predictions, replaced = network(slots.parameters, buffers, images, batches.axis, seeds)
    if not isinstance(predictions, Tensor) or predictions.ndim != 3:
        raise NotStackable("its output is not a tensor of scores (images, classes)")
    found = _gradients(network, network.losses(predictions, labels), slots.parameters)
    changed = [name for name, value in _hidden(network.module).items() if not is_same(value, before.get(name))]
    if changed:
        when = "a step" if network.module.training else "its evaluation"
        raise NotStackable(f"{when} changes what its members would share: {', '.join(changed)}")
    for slot in {0, k - 1}:
        parameters, own_buffers = (
            {name: value.detach()[slot] for name, value in tensors.items()}
            for tensors in (slots.parameters, slots.buffers)
        )
        batch = images.select(batches.axis, slot), labels[slot], seeds[slot]
        alone = _alone(network, slots.trained, parameters, own_buffers, *batch)
        _compare(
            (predictions.detach()[slot], _of(found, slot), _of({**buffers, **replaced}, slot)),
            alone,
            _exact(network, slots.trained, parameters, own_buffers, *batch) or alone,
        )


def _of(tensors: Named, slot: int) -> Named:
    return {name: value[slot] for name, value in tensors.items()}


def _alone(
    network: StackedNetwork, trained: Sequence[str], parameters: Named, buffers: Named, images: Tensor, labels: Tensor,
    seed: Tensor,
) -> Found:  # fmt: skip
    """What the network of one slot gives by itself."""
    own = {name: value.clone().requires_grad_(name in trained) for name, value in parameters.items()}
    own_buffers = {name: value.clone() for name, value in buffers.items()}
    with SeededDropout(seed):
        output, replaced = call(network.module, own, own_buffers, images)
    found = _gradients(network, network.loss_func(output, labels), own)
    return output.detach(), found, {**own_buffers, **replaced}


def _gradients(network: StackedNetwork, losses: Tensor, parameters: Named) -> Named:
    """The gradients of a step; an evaluation has none."""
    return gradients(losses, parameters) if network.module.training else {}


def _exact(
    network: StackedNetwork, trained: Sequence[str], parameters: Named, buffers: Named, *batch: Tensor
) -> Found | None:
    """The same in double precision, which no setting of the process rounds; None if the network has none."""
    images, labels, seed = batch
    try:
        return _alone(network, trained, _doubled(parameters), _doubled(buffers), images.double(), labels, seed)
    except RuntimeError:  # some operation wants the types of single precision
        return None


def _doubled(tensors: Named) -> Named:
    return {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}


def _compare(
    stacked: Found, alone: Found, exact: Found, within: float = EXACT, how: str = "in a stack", other: str = "alone"
) -> None:  # fmt: skip
    """Raise `NotStackable` if a stack is further from the exact result than rounding can be.

    within: of the norm, what it may be off where `alone` is exact. how, other: in which the two differ.
    """
    for what, number in (("outputs", 0), ("gradients", 1), ("buffers", 2)):
        of_stack, of_alone, of_exact = (_by_name(found[number]) for found in (stacked, alone, exact))
        if not of_stack.keys() == of_alone.keys() == of_exact.keys():
            raise NotStackable(f"its {what} are those of other parameters than {other}")
        ours, theirs, true = (
            torch.cat([torch.zeros(1), *(found[name].detach().double().cpu().flatten() for name in of_exact)])
            for found in (of_stack, of_alone, of_exact)
        )
        norm, rounding, distance = (float(it.norm()) for it in (true, theirs - true, ours - true))
        bound = within * norm + AS_ALONE * rounding + torch.finfo(torch.float32).eps
        if math.isfinite(norm) and math.isfinite(rounding) and not distance <= bound:
            raise NotStackable(
                f"its {what} are further from the exact ones {how} ({distance:.2g}) than {other} ({rounding:.2g}; "
                f"norm {norm:.2g})"
            )


def _by_name(found: Tensor | Named) -> Named:
    return {"": found} if isinstance(found, Tensor) else found


def _hidden(module: nn.Module) -> dict[str, Any]:
    """What a step could change that members would share: Python's random streams, and `hidden_in` the network."""
    return {
        "Python's random stream": random.getstate(),
        "NumPy's random stream": repr(np.random.get_state()),  # noqa: NPY002
        **hidden_in(module),
    }


def hidden_in(module: nn.Module) -> dict[str, Any]:
    """What modules hold beside parameters and buffers, by name. A stack has it once, for all members."""
    found: dict[str, Any] = {}
    for place, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in _OF_ALL_MODULES:
                found[f"{place}.{name}".lstrip(".")] = _snapshot(value)
    return found


def _snapshot(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.shape, value.dtype, value.tobytes()
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    if isinstance(value, list | tuple):
        return [_snapshot(each) if not isinstance(each, list | tuple) else type(each) for each in value]
    return type(value), len(value) if hasattr(value, "__len__") else None


def is_same(one: Any, other: Any) -> bool:
    """Whether two snapshots are equal."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)
