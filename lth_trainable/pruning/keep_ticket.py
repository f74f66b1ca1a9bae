"""KeepTicket: train a ticket in a new learner, and keep its zeros.

learn.fit(20, 1e-3, cbs=KeepTicket("ticket.safetensors"))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from torch import Tensor, nn

from lth_trainable.errors import UserError, bad_value
from lth_trainable.pruning.fits import is_looking
from lth_trainable.pruning.keep_mask import KeepMask
from lth_trainable.pruning.layers import PRUNABLE, TRANSPOSED, Layer, named_modules, plain_name, prunable_layers
from lth_trainable.pruning.masks import Mask
from lth_trainable.pruning.own_weights import replaced_layers
from lth_trainable.pruning.pruner import MaskedLayers
from lth_trainable.pruning.ticket import WEIGHTS, Ticket, load_ticket, put
from lth_trainable.pruning.weight_copies import OptimizerCopies

PRESENT = "present"
Masks = Mapping[str, Any]


class KeepTicket(Callback):
    """At the start of a fit, give the network the weights and masks of a ticket; keep the zeros in this and later fits.

    ticket: a `Ticket`, the path of one (`save_ticket`), or masks by parameter name (True or 1: kept). None: the zeros
    that the network has are its mask, for a network that was loaded (`learn.load`, `load_ticket(path).apply(net)`).
    weights: "initial", "rewind" or "final", those of the ticket to start from; "present": those that the network has.
    By default its rewind weights, or the initial ones if nothing was rewound; with masks only, the present ones.

    A fit whose network is under the ticket's masks already, because of an earlier fit, goes on from there. The
    optimiser starts without moments where weights are loaded. A SparsifyCallback in the same fit prunes the ticket
    further. Raises `UserError` before any weight has changed, if the ticket does not fit the network. Afterwards
    `learn.remove_cb(learn.keep_mask)` lets the zeros go.
    """

    order = 4  # before a SparsifyCallback, which goes on from the mask

    def __init__(self, ticket: Ticket | Masks | Path | str | None = None, weights: str | None = None) -> None:
        super().__init__()
        found = load_ticket(ticket) if isinstance(ticket, str | Path) else ticket
        self.masks = _checked(found.masks if isinstance(found, Ticket) else found)
        self.start = _start(found, weights)
        self.masked: MaskedLayers | None = None
        self.keeper: KeepMask | None = None
        self._is_announced = False  # a fit has begun and has trained nothing yet; `summary` goes no further

    def before_fit(self) -> None:
        if not is_looking(self.learn):
            self._is_announced = True

    def before_train(self) -> None:
        if is_looking(self.learn) or not self._is_announced:
            return
        self._is_announced = False
        if not self._goes_on():
            self._begin()

    def after_fit(self) -> None:
        if not is_looking(self.learn):
            self._is_announced = False

    def _goes_on(self) -> bool:
        """Whether an earlier fit has left the network under the masks, and something keeps them."""
        if self.masked is None or self.keeper is None:
            return False
        if self.keeper.learn is self.learn:
            return self.keeper.has_own_weights
        others = [cb for cb in self.learn.cbs if isinstance(cb, KeepMask) and cb.has_own_weights]
        return bool(others) and not replaced_layers(self.masked, self.learn.model)

    def _begin(self) -> None:
        learn = self.learn
        masks = _of_zeros(learn.model) if self.masks is None else self.masks
        copies = OptimizerCopies(learn.opt, learn.model)
        put(learn.model, self.start, masks)
        if self.start is not None:
            learn.opt.clear_state()
        copies.follow()
        learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, KeepMask)])
        self.masked = MaskedLayers(_layers(learn.model, masks), dict(masks))
        self.keeper = KeepMask(self.masked)
        learn.add_cb(self.keeper)
        self.keeper.start()  # it has come with this very event, which does not reach it


def _start(ticket: Ticket | Masks | None, weights: str | None) -> Mapping[str, Tensor] | None:
    """The weights to start from; None: those that the network has."""
    if weights == PRESENT or (weights is None and not isinstance(ticket, Ticket)):
        return None
    if not isinstance(ticket, Ticket):
        raise bad_value("KeepTicket: weights", weights, "'present' where there is no ticket", "masks have no weights")
    if weights is not None and weights not in WEIGHTS:
        raise bad_value("KeepTicket: weights", weights, f"one of {', '.join(WEIGHTS)}, {PRESENT}")
    return ticket.weights(weights or ("rewind" if ticket.rewind else "initial"))


def _checked(masks: Masks | None) -> dict[str, Mask] | None:
    """The masks as Boolean arrays by parameter name. Raises `UserError` for what is no mask."""
    if masks is None:
        return None
    expected = "a ticket, the path of one, or masks by parameter name"
    if not isinstance(masks, Mapping):
        raise bad_value("KeepTicket: ticket", type(masks).__name__, expected)
    if not masks:
        raise bad_value("KeepTicket: ticket", dict(masks), f"{expected}, at least one")
    return {plain_name(str(name)): _mask(str(name), mask) for name, mask in masks.items()}


def _mask(name: str, given: Any) -> Mask:
    array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if array.dtype != bool and not (array.dtype.kind in "iuf" and np.isin(array, (0, 1)).all()):
        raise bad_value(
            f"KeepTicket: mask of {name}", f"values of {array.dtype}", "True and False, or 1 and 0 (kept, removed)"
        )
    return array.astype(bool)


@torch.no_grad()
def _of_zeros(model: nn.Module) -> dict[str, Mask]:
    """The mask that the network's zeros show: for each convolution and linear layer that has some."""
    layers = prunable_layers(model, PRUNABLE)
    masks = {layer.parameter_name: (layer.weight != 0).cpu().numpy() for layer in layers}
    found = {name: mask for name, mask in masks.items() if not mask.all()}
    if not found:
        raise UserError(
            "KeepTicket: found no weight of zero in the network; expected a sparse network where no ticket is given;"
            " load one before the fit, or give the ticket: KeepTicket(ticket)"
        )
    return found


def _layers(model: nn.Module, masks: Mapping[str, Mask]) -> list[Layer]:
    """The layers of these masks, in the order of the network."""
    found = []
    for name, module in named_modules(model).items():
        for own, parameter in module.named_parameters(recurse=False):
            full = f"{name}.{own}" if name else own
            if full in masks:
                found.append(Layer(
                    name=name, type=type(module).__name__, parameter_name=full, weight=parameter,
                    transposed=isinstance(module, TRANSPOSED),
                ))  # fmt: skip
    return found
