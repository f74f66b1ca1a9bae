"""A ticket as one file: its masks, its initial, rewind and final weights, and where it comes from.

The file is in the safetensors format, with JSON metadata. `docs/callback.md` shows a ten-line loader that does not need
this package.
"""

from __future__ import annotations

import glob
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lth_trainable.errors import UserError
from lth_trainable.pruning.layers import named_tensors, plain_name, unwrapped
from lth_trainable.pruning.masks import Mask, pack, unpack
from lth_trainable.tensors import below, row_major
from lth_trainable.unfinished import PART, remove_abandoned

FORMAT = "lottery-ticket 1"
NAMED = 3  # tensors in a message
WEIGHTS = ("initial", "rewind", "final")


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """A mask with the weights before, at and after training.

    masks: Boolean arrays by parameter name, shaped as the parameter, True where the weight is kept. initial, rewind,
    final: `state_dict`s; rewind is empty if nothing was rewound, final if the network has other weights than those that
    were trained under the masks. provenance: settings of the callback, counts and
    versions, ready for JSON.
    """

    masks: Mapping[str, Mask]
    initial: Mapping[str, Tensor]
    rewind: Mapping[str, Tensor]
    final: Mapping[str, Tensor]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, model: nn.Module, weights: str = "rewind") -> nn.Module:
        """Load the "initial", "rewind" or "final" weights into `model`, mask them and return the model.

        A fit changes the zeros, unless it has a `KeepTicket`. Raises `UserError` before any change if the ticket does
        not have these weights, or if they or the masks do not fit the model.
        """
        put(model, self.weights(weights), self.masks)
        return model

    def weights(self, which: str) -> Mapping[str, Tensor]:
        """Its "initial", "rewind" or "final" weights. Raises `UserError` if it does not have them."""
        state: Mapping[str, Tensor] = getattr(self, which) if which in WEIGHTS else {}
        if not state:
            present = [which for which in WEIGHTS if getattr(self, which)]
            raise UserError(f"ticket: found no {which} weights; it has {', '.join(present)}")
        return state


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's `state_dict`, with plain names."""
    return {plain_name(name): tensor.detach().clone() for name, tensor in unwrapped(model).state_dict().items()}


@torch.no_grad()
def put(model: nn.Module, state: Mapping[str, Tensor] | None, masks: Mapping[str, Mask]) -> None:
    """Load weights into `model` (None: leave its own) and mask them. Raises `UserError` before any change."""
    network = unwrapped(model)
    tensors = {name: t for name, t in named_tensors(network).items() if isinstance(t, nn.Parameter)}
    masked = {plain_name(name): mask for name, mask in masks.items()}
    _check_fit("masks", masked, {name: tensors[name] for name in masked if name in tensors})
    if state is not None:
        own = {name: plain_name(name) for name in network.state_dict()}
        given = {plain_name(name): tensor for name, tensor in state.items()}
        _check_fit("weights", given, {own[name]: tensor for name, tensor in network.state_dict().items()})
        network.load_state_dict({name: given[plain] for name, plain in own.items()})
    for name, mask in masked.items():
        tensors[name].mul_(torch.from_numpy(mask).to(tensors[name]))


def _check_fit(what: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raise one `UserError` if names or shapes of a ticket's tensors (`ours`) are not those of the network."""
    shapes = [(name, _shape(ours.get(name)), _shape(theirs.get(name))) for name in {**ours, **theirs}]
    wrong = [f"{name} is {our} in the ticket and {their} in the network" for name, our, their in shapes if our != their]
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise UserError(
            f"ticket: found {what} of another network: {'; '.join(wrong[:NAMED])}{more}; expected those of this one;"
            " build the network that the ticket was found in, with the same layers, widths and number of classes"
        )


def _shape(tensor: Any) -> str:
    if tensor is None:
        return "missing"
    return "x".join(map(str, tensor.shape)) or "one number"


def save_ticket(ticket: Ticket, path: str | Path) -> Path:
    """Write the ticket to a file in one atomic step and return its path. Equal tickets give equal bytes."""
    tensors = {f"mask/{name}": torch.from_numpy(pack(mask)) for name, mask in ticket.masks.items()}
    for which in WEIGHTS:
        tensors |= {f"{which}/{name}": tensor for name, tensor in row_major(getattr(ticket, which)).items()}
    shapes = {name: list(mask.shape) for name, mask in ticket.masks.items()}
    about = {"format": FORMAT, "shapes": shapes, "provenance": dict(ticket.provenance)}
    target = Path(path)
    remove_abandoned(target.parent, f"{glob.escape(target.name)}.????????{PART}")
    beside = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{PART}")
    beside.write_bytes(save(tensors, metadata={"ticket": json.dumps(about, sort_keys=True)}))
    os.replace(beside, target)
    return target


def load_ticket(path: str | Path) -> Ticket:
    """Read a ticket from a file. Raises `UserError` if the file is missing, damaged or not a ticket."""
    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("ticket", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as a ticket ({error}); expected a file of save_ticket") from error
    if about.get("format") != FORMAT:
        raise UserError(f"{path}: found format {about.get('format')!r}; expected {FORMAT!r}")
    shapes = about["shapes"]
    masks = {name: unpack(np.asarray(tensors[f"mask/{name}"]), tuple(shape)) for name, shape in shapes.items()}
    parts = {which: below(which, tensors) for which in WEIGHTS}
    return Ticket(masks=masks, provenance=about["provenance"], **parts)
