"""The content of an imported ticket, and its place in the store: a folder among the states, named by its SHA-256.

    <storage>/states/<digest>/<fingerprint>/    weights.safetensors, masks.safetensors (bit-packed), ticket.json

Workers and later commands find it there, whatever has become of the file that it was read from.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from lth_trainable.errors import UserError
from lth_trainable.pruning.masks import Mask, pack, unpack
from lth_trainable.spec.ticket_id import SHORT, TicketId
from lth_trainable.store.store import MASKS, STATES, WEIGHTS, Damaged, Store, to_json

ABOUT = "ticket.json"
LENGTH = 64  # of a whole digest


@dataclass(frozen=True, kw_only=True)
class ImportedTicket:
    """A ticket in the names, shapes and types of the network that it was fitted to.

    weights: a whole `state_dict` on the CPU, each tensor in memory of its own: the start weights, also outside the mask
    where they are known. masks: Boolean arrays, True where kept, of every weight that could be pruned. epoch: of the
    weights, as far as their file says. source: the name of that file. told: what a person should know of how it was
    read.
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
        """Whether all weights outside the mask are zero: then what they were is not known."""
        return not any(np.any(self.weights[name].numpy()[~mask]) for name, mask in self.masks.items())

    def id(self, epoch: int | None = None) -> TicketId:
        """As `TrialSpec.ticket` has it, in text. epoch: of the weights; None for what the file says."""
        return TicketId(digest=self.digest, masked=self.masked, epoch=self.epoch if epoch is None else epoch)

    def sparsity(self, names: list[str]) -> Fraction:
        """Part of these weights that is removed, exact."""
        size = sum(self.masks[name].size for name in names)
        return Fraction(size - sum(int(np.count_nonzero(self.masks[name])) for name in names), size)

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        """Put the weights into a network. Raises `UserError` for one of other names or shapes."""
        wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if wanted != {name: tuple(tensor.shape) for name, tensor in self.weights.items()}:
            raise UserError(
                f"ticket {self.digest[:SHORT]}: found another network than the one that it was imported for; expected "
                "the same data set and model; import its file anew for this one"
            )
        model.load_state_dict(dict(self.weights))

    def seal(self, store: Store) -> None:
        """Put it into the store, unless it is there."""
        path = store.state(self.digest, {})  # of no fingerprint: it is the same on every machine
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
    """The ticket whose digest is this or begins so. Raises `UserError` where the store does not have it whole."""
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
    about = json.loads(store.content(folder, ABOUT))
    packed = load_arrays(store.content(folder, MASKS))
    return ImportedTicket(
        weights=load_tensors(store.content(folder, WEIGHTS)), epoch=about["epoch"], source=about["source"],
        masks={name: unpack(packed[name], tuple(shape)) for name, shape in about["shapes"].items()},
    )  # fmt: skip


def _is_ticket(store: Store, key: str) -> bool:
    try:
        return store.find(store.state(key, {})) is not None  # nothing else is stored without a fingerprint
    except Damaged:
        return True  # reading it says what is wrong


def _is_sound(store: Store, path: str) -> bool:
    try:
        folder = store.find(path)
        for name in folder.manifest["files"] if folder is not None else ():
            store.content(folder, name)  # type: ignore[arg-type]
    except Damaged:
        return False
    return folder is not None


def _feed(sha: Any, *parts: Any) -> None:
    """Each part with its length, so that no two lists of parts read alike."""
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        sha.update(len(content).to_bytes(8, "little"))
        sha.update(content)
