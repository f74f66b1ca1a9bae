"""Tickets from elsewhere as tests make them: a LeNet of a known initialisation, with masks of every other weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lth_trainable.models.networks import MODELS
from lth_trainable.tickets.fit import fit_ticket
from lth_trainable.tickets.formats import read_foreign
from lth_trainable.tickets.imported import ImportedTicket

DIGEST = "0a" * 32


def lenet() -> nn.Module:
    torch.manual_seed(0)
    return MODELS["lenet_300_100"]((1, 8, 8), 10)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def half(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks (integers, as OpenLTH has them) of every other weight."""
    return {
        name: torch.arange(tensor.numel()).reshape(tensor.shape).remainder(2).int()
        for name, tensor in weights.items()
        if tensor.ndim > 1
    }


def read(path: Path, masks: Path | None = None) -> ImportedTicket:
    return fit_ticket(read_foreign(path, masks), lenet())


def write_half(path: Path) -> ImportedTicket:
    """A file with weights and masks, and the ticket in it."""
    weights = weights_of(lenet())
    torch.save(weights | {f"{name}_mask": mask for name, mask in half(weights).items()}, path)
    return read(path)


def write_masked(path: Path) -> ImportedTicket:
    """A file with zeros where the mask removes, and the ticket in it."""
    weights = weights_of(lenet())
    for name, mask in half(weights).items():
        weights[name] *= mask
    torch.save(weights, path)
    return read(path)
