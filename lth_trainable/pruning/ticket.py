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
from lth_trainable.pruning.layers import unwrapped
from lth_trainable.pruning.masks import Mask, pack, unpack
from lth_trainable.tensors import below, row_major
from lth_trainable.unfinished import PART, remove_abandoned

FORMAT = "lottery-ticket 1"
WEIGHTS = ("initial", "rewind", "final")


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """A mask with the weights before, at and after training.

    masks: Boolean arrays by parameter name, shaped as the parameter, True where the weight is kept. initial, rewind,
    final: `state_dict`s; rewind is empty if nothing was rewound. provenance: settings of the callback, counts and
    versions, ready for JSON.
    """

    masks: Mapping[str, Mask]
    initial: Mapping[str, Tensor]
    rewind: Mapping[str, Tensor]
    final: Mapping[str, Tensor]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def apply(self, model: nn.Module, weights: str = "rewind") -> nn.Module:
        """Load the "initial", "rewind" or "final" weights into `model`, mask them and return the model.

        Raises `UserError` if the ticket does not have these weights.
        """
        state = getattr(self, weights) if weights in WEIGHTS else None
        if not state:
            present = [which for which in WEIGHTS if getattr(self, which)]
            raise UserError(f"ticket: found no {weights} weights; it has {', '.join(present)}")
        unwrapped(model).load_state_dict(state)
        for name, mask in self.masks.items():
            parameter = unwrapped(model).get_parameter(name)
            parameter.mul_(torch.from_numpy(mask).to(parameter))
        return model


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
