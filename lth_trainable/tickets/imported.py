"""Imported tickets, and how they are stored: in a folder among the states, named by their SHA-256.

    <storage>/states/<digest>/<fingerprint>/    weights.safetensors, masks.safetensors (bit-packed), ticket.json

Workers and later commands read a ticket from there, so its original file is not needed any more.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from lth_trainable.errors import UserError
from lth_trainable.pruning.masks import Mask, pack, unpack
from lth_trainable.spec.ticket_id import SHORT, TicketId
from lth_trainable.store.contents import COUNT, SHAPE, TEXT
from lth_trainable.store.layout import Each, Entries, Odd, readable
from lth_trainable.store.store import MASKS, STATES, WEIGHTS, Damaged, Store, to_json
from lth_trainable.store.tensor_files import arrays_of, check_like, tensors_of

ABOUT = "ticket.json"
ABOUT_LAYOUT = Entries(needed={"shapes": Each(of=SHAPE), "epoch": COUNT, "source": TEXT})
LENGTH = 64  # hex digits of a complete digest


@dataclass(frozen=True, kw_only=True)
class ImportedTicket:
    """A ticket with the names, shapes and types of the network that it was fitted to.

    weights: a complete `state_dict` on the CPU, each tensor in its own memory. These are the start weights, including
    those outside the mask if they are known. masks: Boolean arrays of every weight that could be pruned, True where
    kept. epoch: of the weights, if their file says so. source: name of that file. notes: what the user should know
    about how it was read.
    """

    weights: Mapping[str, Tensor]
    masks: Mapping[str, Mask]
    epoch: int = 0
    source: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over names, types, shapes and bytes of weights and masks."""
        sha = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            array = tensor.numpy()
            _feed(sha, "weight", name, array.dtype.newbyteorder("<").str, array.shape, array.tobytes())
        for name, mask in sorted(self.masks.items()):
            _feed(sha, "mask", name, "|b1", mask.shape, pack(mask).tobytes())
        return sha.hexdigest()

    @functools.cached_property
    def masked(self) -> bool:
        """Whether all weights outside the mask are zero, so that their start values are unknown."""
        return not any(np.any(self.weights[name].numpy()[~mask]) for name, mask in self.masks.items())

    def id(self, epoch: int | None = None) -> TicketId:
        """The ticket as `TrialSpec.ticket` names it. epoch: of the weights; None takes that of the file."""
        return TicketId(digest=self.digest, masked=self.masked, epoch=self.epoch if epoch is None else epoch)

    def sparsity(self, names: list[str]) -> Fraction:
        """Exact fraction of the weights in these layers that is removed. names: of parameters."""
        size = sum(self.masks[name].size for name in names)
        return Fraction(size - sum(int(np.count_nonzero(self.masks[name])) for name in names), size)

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        """Load the weights into a network. Raises `UserError` if its names or shapes differ."""
        wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if wanted != {name: tuple(tensor.shape) for name, tensor in self.weights.items()}:
            raise UserError(
                f"ticket {self.digest[:SHORT]}: found another network than the one that it was imported for; expected "
                "the same data set and model; import its file anew for this one"
            )
        model.load_state_dict(dict(self.weights))

    def seal(self, store: Store) -> None:
        """Store the ticket, unless it is stored already."""
        path = store.state(self.digest, {})  # no fingerprint, because a ticket is the same on every machine
        if _is_sound(store, path):
            return
        shapes = {name: list(mask.shape) for name, mask in self.masks.items()}
        files = {
            WEIGHTS: save_tensors(dict(self.weights)),
            MASKS: save_arrays({name: pack(mask) for name, mask in self.masks.items()}),
            ABOUT: to_json({"shapes": shapes, "epoch": self.epoch, "source": self.source}),
        }
        store.seal_shared(path, files, {"kind": "ticket", "key": self.digest, "complete": False})


def find_imported(store: Store, digest: str) -> ImportedTicket:
    """The stored ticket with this digest or start of a digest. Raises `UserError` if it is missing or damaged."""
    expected = "an imported ticket that the storage has"
    advice = "import its file again (--import-ticket FILE)"
    listed = [digest] if len(digest) == LENGTH else store.folders(STATES)
    keys = [key for key in listed if key.startswith(digest) and _is_ticket(store, key)]
    if len(keys) != 1:
        raise UserError(
            f"ticket {digest[: 2 * SHORT]}: found {len(keys) or 'none'} in {store.uri}; expected {expected}; {advice}"
        )
    try:
        found = _read(store, keys[0])
    except Damaged as damage:
        raise UserError(f"ticket {digest[:SHORT]}: {damage}; {advice}") from damage
    if found.digest != keys[0]:
        raise UserError(f"ticket {keys[0][:SHORT]}: its content has another digest; {advice}")
    return found


def _read(store: Store, digest: str) -> ImportedTicket:
    folder = store.find(store.state(digest, {}))
    if folder is None:
        raise Damaged(digest, "it is no longer there")
    about = store.json_of(folder, ABOUT)
    packed, weights = arrays_of(store, folder, MASKS), tensors_of(store, folder, WEIGHTS)
    try:
        ABOUT_LAYOUT.check("", about)
        with readable(ABOUT):
            masks = {name: unpack(packed[name], tuple(shape)) for name, shape in about["shapes"].items()}
    except Odd as error:
        raise Damaged(folder.path, f"{ABOUT} is not as this version writes it ({error})") from error
    check_like(folder, MASKS, masks, {name: weights.get(name, 0) for name in masks})
    return ImportedTicket(weights=weights, epoch=about["epoch"], source=about["source"], masks=masks)


def _is_ticket(store: Store, key: str) -> bool:
    try:
        return store.find(store.state(key, {})) is not None  # only tickets are stored without a fingerprint
    except Damaged:
        return True  # reading it then reports what is wrong


def _is_sound(store: Store, path: str) -> bool:
    try:
        folder = store.find(path)
        for name in folder.manifest["files"] if folder is not None else ():
            store.content(folder, name)  # type: ignore[arg-type]
    except Damaged:
        return False
    return folder is not None


def _feed(sha: Any, *parts: Any) -> None:
    """Feed each part with its length, so that different lists of parts never give the same bytes."""
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        sha.update(len(content).to_bytes(8, "little"))
        sha.update(content)
