"""Selects the weights of a model that are pruned, and says why the others are not."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from lth_trainable.errors import UserError, bad_value
from lth_trainable.pruning.unprunable import SMALL, refuse_lazy, why_not

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
PRUNABLE = (*CONVOLUTIONS, nn.Linear)
LAYER_TYPES: dict[str, tuple[type[nn.Module], ...] | None] = {
    "auto": None, "conv": CONVOLUTIONS, "linear": (nn.Linear,), "all": PRUNABLE,
}  # fmt: skip

COMPILED = "_orig_mod"  # the name under which torch.compile keeps the module that it compiles
MOST_REASONS = 8  # in the message for a network without a layer to prune

LayerType = str | type | Iterable[str | type] | None
Selection = str | Sequence[str] | Callable[[str, nn.Module], bool] | None


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One prunable weight: name and type of its module, name of the parameter, and the parameter itself.

    transposed, groups: of a convolution.
    """

    name: str
    type: str
    parameter_name: str
    weight: nn.Parameter
    transposed: bool = False
    groups: int = 1


def layer_types(given: LayerType | UnionType) -> tuple[type[nn.Module], ...] | None:
    """Types of layer, of one type or name or of several. None: as `prunable_layers` chooses.

    A name is one of `LAYER_TYPES`, or that of a class of torch.nn. Raises `UserError` for anything else.
    """
    if given is None or given == "auto":
        return None
    several = given.__args__ if isinstance(given, UnionType) else given
    found: list[type[nn.Module]] = []
    for kind in several if isinstance(several, list | tuple | set | frozenset) else (several,):
        named: Any = (LAYER_TYPES.get(kind) or getattr(nn, kind, None)) if isinstance(kind, str) else kind
        for each in named if isinstance(named, tuple) else (named,):
            if not isinstance(each, type) or not issubclass(each, nn.Module):
                raise bad_value(
                    "layer_type", given,
                    "a type of layer, such as nn.Conv2d, its name, or conv, linear or all; or several of them",
                    "fasterai has save_tickets in its place: give what follows reset_end by name",
                )  # fmt: skip
            found.append(each)
    if not found:
        raise bad_value("layer_type", given, "at least one type of layer, or None")
    return tuple(dict.fromkeys(found))


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        inner = model.module if isinstance(model, DataParallel | DistributedDataParallel) else _compiled(model)
        if inner is None:
            return model
        model = inner


def plain_name(name: str) -> str:
    """The name of a module or tensor in the network as it was written, also if parts of it are compiled."""
    return ".".join(part for part in name.split(".") if part != COMPILED)


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of the network by plain name; of a compiled module the one that was compiled."""
    found = unwrapped(model).named_modules()
    return {plain_name(name): module for name, module in found if _compiled(module) is None}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of the network by plain name. What two modules share is there under both names."""
    network = unwrapped(model)
    kinds = network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)
    return {plain_name(name): tensor for name, tensor in itertools.chain(*kinds)}


def _compiled(module: nn.Module) -> nn.Module | None:
    members = module._modules
    return members[COMPILED] if COMPILED in members else None  # noqa: SIM401 (those of a TorchScript have no `get`)


def prunable_layers(model: nn.Module, layer_type: LayerType = None, select: Selection = None) -> list[Layer]:
    """Layers whose `weight` is pruned, in the order of the model.

    layer_type: type(s) of layer or their names; by default all convolutions, or all linear layers if there are no
    convolutions. select: one or several patterns of module names (`"layer[12].*"`), or a predicate f(name, module). A
    weight that two layers share counts once. Raises `UserError` if no layer is left.
    """
    refuse_lazy(model)
    judged = _judged(model, layer_type, select)
    found = [layer for layer, reason in judged if not reason]
    if not found:
        reasons = [f"{layer.name}: {reason}" for layer, reason in judged] + _other_reasons(model, judged)
        shown = "; ".join(reasons[:MOST_REASONS]) + ("; ..." if len(reasons) > MOST_REASONS else "")
        raise UserError(f"{type(unwrapped(model)).__name__}: found no layer to prune ({shown or 'it has no weights'})")
    return found


def _other_reasons(model: nn.Module, judged: Sequence[tuple[Layer, str]]) -> list[str]:
    weights = {id(layer.weight) for layer, _ in judged}
    found = [
        (f"{module_name}.{name}" if module_name else name, why_not(module, name, parameter))
        for module_name, module in named_modules(model).items()
        for name, parameter in module.named_parameters(recurse=False)
        if id(parameter) not in weights
    ]
    return [f"{name}: {reason}" for name, reason in found if reason != SMALL]


def left_out(model: nn.Module, layer_type: LayerType = None, select: Selection = None) -> list[tuple[Layer, str]]:
    """Convolutions and linear layers that are not pruned, each with the reason."""
    return [(layer, reason) for layer, reason in _judged(model, layer_type, select) if reason]


def _judged(model: nn.Module, layer_type: LayerType, select: Selection) -> list[tuple[Layer, str]]:
    modules = named_modules(model)
    has_convolutions = any(isinstance(module, CONVOLUTIONS) for module in modules.values())
    types = layer_types(layer_type) or (CONVOLUTIONS if has_convolutions else (nn.Linear,))
    judged: list[tuple[Layer, str]] = []
    first: dict[int, str] = {}
    for name, module in modules.items():
        weight = getattr(module, "weight", None)
        if not isinstance(module, PRUNABLE + types):
            continue
        if not isinstance(weight, nn.Parameter):
            continue
        layer = Layer(
            name=name, type=type(module).__name__, parameter_name=f"{name}.weight" if name else "weight", weight=weight,
            transposed=isinstance(module, TRANSPOSED), groups=getattr(module, "groups", 1),
        )  # fmt: skip
        reason = ""
        if not isinstance(module, types):
            reason = "not a convolution" if layer_type is None else "of another type"
        elif not _selected(select, name, module):
            reason = "not selected"
        elif id(weight) in first:
            reason = f"shares its weight with {first[id(weight)]}"
        else:
            first[id(weight)] = name
        judged.append((layer, reason))
    return judged


def _selected(select: Selection, name: str, module: nn.Module) -> bool:
    if select is None:
        return True
    if callable(select):
        return bool(select(name, module))
    patterns = [select] if isinstance(select, str) else select
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
