"""Fits a ticket from a file to a network: renames its tensors, or reports what does not match.

Names may differ by a common prefix (`module.`, `model.`). If they differ otherwise and all shapes are distinct, tensors
are matched by their shapes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lth_trainable.errors import UserError, bad_value
from lth_trainable.pruning.layers import LAYER_TYPES, prunable_layers
from lth_trainable.pruning.masks import Mask
from lth_trainable.tensors import row_major
from lth_trainable.tickets.formats import TicketFile
from lth_trainable.tickets.imported import ImportedTicket

SHOWN = 3  # mismatches of each kind that an error lists

Names = dict[str, str]


def fit_ticket(found: TicketFile, model: nn.Module) -> ImportedTicket:
    """The ticket for this network. Raises `UserError` if it does not fit the network, or is not a ticket."""
    like = model.state_dict()
    names, notes = _renamed(_shapes(found.weights), _shapes(like))
    weights = {names[name]: tensor for name, tensor in found.weights.items()}
    _check_names(found.source, _shapes(weights), _shapes(like))
    other = sorted({str(t.dtype).removeprefix("torch.") for n, t in weights.items() if t.dtype != like[n].dtype})
    weights = row_major({name: weights[name].to("cpu", tensor.dtype) for name, tensor in like.items()})
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise bad_value(f"{found.source}, {name}", "NaN or infinite weights", "finite ones")
    prunable = {layer.parameter_name: layer.weight for layer in prunable_layers(model, LAYER_TYPES["all"])}
    masks = {name: np.ones(tuple(weight.shape), bool) for name, weight in prunable.items()}
    if found.masks is None:
        masks |= {name: weights[name].numpy() != 0 for name in prunable}
    else:
        masks |= _fitted_masks(found, found.masks, names, prunable)
    _check_masks(found.source, masks)
    return ImportedTicket(
        weights=weights, masks=masks, epoch=found.epoch, source=found.source,
        notes=(*found.notes, *notes, *([f"{', '.join(other)} taken as the network's type"] if other else [])),
    )  # fmt: skip


def layers_of(ticket: ImportedTicket, model: nn.Module, requested: str | None) -> str:
    """The selection of layers (a name of `LAYER_TYPES`) that the ticket's mask prunes.

    requested: the user's choice; None chooses "auto" if the mask prunes no other layers, else "all". Raises `UserError`
    if the user's choice leaves out a layer that the mask prunes.
    """
    pruned = {name for name, mask in ticket.masks.items() if not mask.all()}
    choice = requested or "auto"
    outside = sorted(pruned - set(selected(model, choice)))
    if outside and requested is not None:
        raise bad_value(
            f"{ticket.source}, {outside[0]}", "a mask with zeros", f"one without: layers {requested} are pruned",
            "use --layers all, or omit --layers",
        )  # fmt: skip
    return "all" if outside else choice


def selected(model: nn.Module, layers: str) -> list[str]:
    """Parameter names of the weights in a selection of layers."""
    return [layer.parameter_name for layer in prunable_layers(model, LAYER_TYPES[layers])]


# -- names -----------------------------------------------------------------------------------------------------------


Shapes = Mapping[str, tuple[int, ...]]


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _renamed(found: Shapes, wanted: Shapes) -> tuple[Names, tuple[str, ...]]:
    """The network's name for each name in the file, and notes on it; unchanged if nothing fits better."""
    names = {name: name for name in found}
    ways: list[tuple[Names, tuple[str, ...]]] = [
        (names, ()),
        *(({n: n.removeprefix(p) for n in found}, (f"prefix {p} removed from its names",)) for p in _prefixes(found)),
        *(({n: p + n for n in found}, (f"prefix {p} added to its names",)) for p in _prefixes(wanted)),
    ]
    best = max(ways, key=lambda way: len(wanted.keys() & set(way[0].values())))
    by_shape = {shape: name for name, shape in wanted.items()}
    unique = len(by_shape) == len(wanted) == len(found) and set(found.values()) == set(by_shape)
    if unique and not wanted.keys() & set(best[0].values()):
        names = {name: by_shape[shape] for name, shape in found.items()}
        return names, (f"tensors matched by their shapes: {', '.join(f'{a} is {b}' for a, b in names.items())}",)
    return best


def _prefixes(names: Iterable[str]) -> list[str]:
    """Common prefixes of all names that end in a dot: `a.`, `a.b.`."""
    parts = [name.split(".")[:-1] for name in names]
    common: list[str] = []
    for step in zip(*parts, strict=False):
        if len(set(step)) > 1:
            break
        common.append(step[0])
    return [".".join(common[: i + 1]) + "." for i in range(len(common))]


def _check_names(source: str, found: Shapes, wanted: Shapes) -> None:
    """Raise `UserError` for mismatches, with the first of each kind and the tensors that the network has."""
    missing = [f"{name} {_size(shape)}" for name, shape in wanted.items() if name not in found]
    unexpected = [f"{name} {_size(shape)}" for name, shape in found.items() if name not in wanted]
    others = [
        f"{name} {_size(found[name])}, there {_size(shape)}"
        for name, shape in wanted.items() if name in found and found[name] != shape
    ]  # fmt: skip
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", others))
    problems = [f"{len(names)} {kind} ({_few(names)})" for kind, names in kinds if names]
    if problems:
        has = _few([f"{name} {_size(shape)}" for name, shape in wanted.items()], 2 * SHOWN)
        raise UserError(
            f"{source}: does not fit the network: {', '.join(problems)}; expected its {len(wanted)} tensors: {has}; "
            "choose the --model of this ticket, or plug it in as package.module:function"
        )


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _few(names: Collection[str], most: int = SHOWN) -> str:
    return ", ".join(list(names)[:most]) + (", ..." if len(names) > most else "")


# -- masks -----------------------------------------------------------------------------------------------------------


def _fitted_masks(
    found: TicketFile, masks: Mapping[str, Tensor], names: Names, prunable: Mapping[str, Tensor]
) -> dict[str, Mask]:
    """Masks of prunable weights by the network's names. Raises `UserError`."""
    if not masks.keys() <= names.keys():
        names, _ = _renamed(_shapes(masks), _shapes(prunable))
    fitted = {}
    for name, mask in masks.items():
        target, whose = names[name], f"{found.source}, mask of {name}"
        if not ((mask == 0) | (mask == 1)).all():
            raise bad_value(whose, "values between", "0 where a weight is removed, 1 where it is kept")
        if target in prunable:
            if mask.shape != prunable[target].shape:
                size = _size(tuple(prunable[target].shape))
                raise bad_value(whose, _size(tuple(mask.shape)), f"the shape of {target}, {size}")
            fitted[target] = mask.cpu().numpy() != 0
        elif not mask.bool().all():
            expected = f"zeros only in weights of convolutions and linear layers: {_few(list(prunable))}"
            raise bad_value(whose, "zeros", expected)
    return fitted


def _check_masks(source: str, masks: Mapping[str, Mask]) -> None:
    if all(mask.all() for mask in masks.values()):
        raise UserError(
            f"{source}: found no zeros in its masks; expected a ticket, some of whose weights are removed; pass a file "
            "of masks with --import-masks"
        )
    empty = [name for name, mask in masks.items() if not mask.any()]
    if empty:
        raise bad_value(f"{source}, {empty[0]}", "no weight left", "at least one in every layer", "no signal passes it")
