"""States: everything that is needed to continue training from one point, stored in one folder.

    weights.safetensors    the model's state_dict
    training.safetensors   buffers that state_dict leaves out, the optimiser's moments and steps, the pruner's memory
    masks.safetensors      bit-packed masks of every level so far, `<level>/<parameter>`
    history.json           every epoch so far, which weights there are, what was measured at the end

A state with only weights (an initialisation, a supermask, or any state that no training continues from) is not
`complete`: no trial starts from it.

Where no trial can need the optimiser (`segments.needs_optimizer`), it is left out, and the manifest of the complete
state has `"optimizer": false`. States of earlier versions have it everywhere; both kinds have the same key.

A *temporary* state is stored by a trial for itself, in case it is killed. Its folder is beside that of the state and no
other process writes to it: `states/<state key>/<fingerprint>-passing-<token>/`. The trial deletes it once it has stored
a deeper one; states stored by others are never deleted with it.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors
from torch import Tensor

from lth_trainable.pruning.masks import Mask
from lth_trainable.pruning.pruner import Pruner
from lth_trainable.pruning.snapshot import Snapshot
from lth_trainable.silence import pulse
from lth_trainable.store.contents import keep_history, keep_written_history, read_history
from lth_trainable.store.layout import Odd, readable
from lth_trainable.store.level_masks import pack_levels
from lth_trainable.store.store import (
    HISTORY,
    MANIFEST,
    MASKS,
    STATES,
    TRAINING,
    WEIGHTS,
    Damaged,
    Sealed,
    Store,
    to_json,
)
from lth_trainable.store.tensor_files import check_like, levels_of, tensors_of
from lth_trainable.tensors import below, row_major

TEMPORARY = "-passing-"
ATTEMPTS = 5  # to write a folder that another process may just be deleting with its temporary state


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a pruner carries from level to level.

    levels: masks by parameter name. requested_sparsity: fractions by parameter name. previous: weights at the last
    prune, for criteria that read them. last_scores: scores of removed weights, for schedules that bring them back.
    """

    levels: tuple[dict[str, Mask], ...] = ()
    requested_sparsity: Mapping[str, Fraction] = field(default_factory=dict)
    previous: Mapping[str, Tensor] = field(default_factory=dict)
    last_scores: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, pruner: Pruner) -> Memory:
        previous = {} if pruner.previous is pruner.initial else pruner.previous
        return cls(
            levels=tuple(pruner.levels),
            requested_sparsity=dict(pruner.requested_sparsity),
            previous=previous,
            last_scores=pruner.last_scores,
        )

    def give(self, pruner: Pruner) -> None:
        """Set a new pruner of the same layers to this memory, without changing any weight."""
        for masks in self.levels:
            pruner.set_mask(masks)
        pruner.requested_sparsity = {**pruner.requested_sparsity, **self.requested_sparsity}
        pruner.last_scores = dict(self.last_scores)
        if self.previous:
            pruner.previous = {name: tensor.to(pruner.initial[name]) for name, tensor in self.previous.items()}


@dataclass(frozen=True, kw_only=True)
class State:
    """A state in memory. history: the content of `history.json`. The snapshot may have no optimiser."""

    snapshot: Snapshot
    memory: Memory
    history: Mapping[str, Any]


class States:
    """The states of a storage with one fingerprint; bytes are only equal between equal fingerprints."""

    def __init__(self, store: Store, fingerprint: Mapping[str, Any]) -> None:
        self.store, self.fingerprint = store, dict(fingerprint)
        self.known: set[str] = set()
        self.set_aside: list[str] = []
        self.token = uuid.uuid4().hex[:8]

    def refresh(self, keys: Collection[str]) -> None:
        """Look up once which of these keys have a folder; `has` then answers from memory."""
        self.known = self.store.present(STATES, keys)

    def has(self, key: str, complete: bool = True, optimizer: bool = False) -> bool:
        """Whether the state is stored; complete: a trial can go on from it; optimizer: also with its optimiser."""
        return key in self.known and self.find(key, complete, optimizer) is not None

    def find(self, key: str, complete: bool = True, optimizer: bool = False) -> Sealed | None:
        """The folder of a state, or None. A damaged one is moved to quarantine and noted in `set_aside`."""
        try:
            folder = self.store.find(self.path(key))
        except Damaged as damage:
            self._put_aside(damage)
            return None
        return folder if folder is not None and _is_enough(folder, complete, optimizer) else None

    def path(self, key: str) -> str:
        return self.store.state(key, self.fingerprint)

    def seal(self, key: str, state: State, complete: bool = True, overwrite: bool = False) -> str:
        """Store a state if it is not stored yet, or always with `overwrite`; returns its folder."""
        if overwrite or self.find(key, complete, complete and state.snapshot.optimizer is not None) is None:
            folder = self._write(self.path(key), key, state, complete)
            keep_written_history(folder, state.history)
        self.known.add(key)
        return self.path(key)

    def seal_temporary(self, key: str, state: State) -> str:
        """Store a temporary state; returns its folder, for `delete_temporary`."""
        path = f"{self.path(key)}{TEMPORARY}{self.token}"
        self._write(path, key, state, complete=True)
        return path

    def temporary(self, key: str) -> list[str]:
        """Folders of the temporary states with this key and fingerprint, of all trials."""
        whose = self.path(key).rpartition("/")[2] + TEMPORARY
        names = self.store.folders(f"{STATES}/{key}") if key in self.known else []
        return [f"{STATES}/{key}/{name}" for name in names if name.startswith(whose)]

    def delete_temporary(self, path: str) -> None:
        """Delete a temporary state, and the folder of its key if that is then empty."""
        self.store.delete_folder(path)
        with contextlib.suppress(OSError):  # it is not empty, or this is an object store, which has no empty folders
            os.rmdir(f"{self.store.root}/{path.rpartition('/')[0]}")

    def load(self, key: str, like: Snapshot, optimizer: bool = True) -> State | None:
        """Read a complete state; None if it is missing or damaged, or if it has no optimiser and is to have one.

        like: a snapshot of the same model.
        """
        for path in (self.path(key), *self.temporary(key)):
            pulse.beat()
            try:
                folder = self.store.find(path)
                if folder is not None and _is_enough(folder, True, optimizer):
                    return self._read(folder, like)
            except Damaged as damage:
                if path == self.path(key) or self.store.exists(f"{path}/{MANIFEST}"):
                    self._put_aside(damage)
            except FileNotFoundError:  # a temporary state whose trial has just deleted it
                continue
        return None

    def is_sound(self, key: str) -> bool:
        """Whether all bytes of a stored state match its manifest; a damaged one is moved to quarantine."""
        folder = self.find(key, complete=False)
        try:
            for name in folder.manifest["files"] if folder is not None else ():
                self.store.content(folder, name)  # type: ignore[arg-type]
        except Damaged as damage:
            self._put_aside(damage)
            return False
        return folder is not None

    def _write(self, path: str, key: str, state: State, complete: bool) -> Sealed:
        files = {WEIGHTS: save_tensors(row_major(state.snapshot.weights)), HISTORY: to_json(dict(state.history))}
        masks = pack_levels(state.memory.levels)
        if masks:
            files[MASKS] = save_arrays(masks)
        if complete:
            files[TRAINING] = save_tensors(row_major(_training(state)))
        about = {"kind": "state", "key": key, "complete": complete, "fingerprint": self.fingerprint}
        if complete and state.snapshot.optimizer is None:
            about["optimizer"] = False
        with pulse.storing():
            for _ in range(ATTEMPTS - 1):
                with contextlib.suppress(FileNotFoundError):
                    return self.store.seal_shared(path, files, about)
            return self.store.seal_shared(path, files, about)

    def _read(self, folder: Sealed, like: Snapshot) -> State:
        history = read_history(self.store, folder)
        training = tensors_of(self.store, folder, TRAINING)
        weights, transient = tensors_of(self.store, folder, WEIGHTS), below("buffer", training)
        check_like(folder, WEIGHTS, weights, like.weights)
        check_like(folder, TRAINING, transient, like.transient)
        levels: dict[int, dict[str, Mask]] = {}
        if MASKS in folder.manifest["files"]:
            shapes = {name: weight["shape"] for name, weight in history["weights"].items()}
            levels = levels_of(self.store, folder, shapes)
        if len(levels) != len(history["counts"]):
            raise Damaged(folder.path, f"{MASKS} has {len(levels)} levels, {HISTORY} {len(history['counts'])}")
        previous, scores = below("previous", training), below("remembered", training)
        carried: tuple[Mapping[str, Any], ...] = (previous, scores, *levels.values())
        for tensors in carried:
            check_like(folder, TRAINING, tensors, {name: like.tensors.get(name, 0) for name in tensors})
        memory = Memory(
            levels=tuple(levels[level] for level in sorted(levels)),
            requested_sparsity={name: Fraction(value) for name, value in history["asked"].items()},
            previous=previous,
            last_scores={name: tensor.numpy() for name, tensor in scores.items()},
        )
        try:
            with readable(TRAINING):
                optimizer = _optimizer_state(below("optimizer", training))
        except Odd as error:
            raise Damaged(folder.path, str(error)) from error
        snapshot = like.replaced({**weights, **transient}, optimizer)
        if not _has_optimizer(folder):
            snapshot.optimizer = None
        keep_history(folder, history)
        return State(snapshot=snapshot, memory=memory, history=history)

    def _put_aside(self, damage: Damaged) -> None:
        self.set_aside.append(f"{damage}; set aside in {self.store.quarantine(damage, STATES)}")


def _is_enough(folder: Sealed, complete: bool, optimizer: bool) -> bool:
    return (not complete or bool(folder.manifest.get("complete"))) and (not optimizer or _has_optimizer(folder))


def _has_optimizer(folder: Sealed) -> bool:
    """Whether a complete state has its optimiser, which may hold no tensor: that of SGD without momentum."""
    return bool(folder.manifest.get("optimizer", True))


def size_of(state: State) -> int:
    """Size in bytes of a state's tensors when stored."""
    tensors = [*state.snapshot.weights.values(), *_training(state).values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _training(state: State) -> dict[str, Tensor]:
    snapshot, memory = state.snapshot, state.memory
    optimizer = (snapshot.optimizer or {}).get("state", {})
    return {
        **{f"buffer/{name}": tensor for name, tensor in snapshot.transient.items()},
        **{
            f"optimizer/{index}/{name}": torch.as_tensor(value)
            for index, values in optimizer.items()
            for name, value in values.items()
            if value is not None
        },
        **{f"previous/{name}": tensor for name, tensor in memory.previous.items()},
        **{f"remembered/{name}": torch.from_numpy(scores) for name, scores in memory.last_scores.items()},
    }


def _optimizer_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        index, _, name = path.partition("/")
        state.setdefault(int(index), {})[name] = tensor
    return dict(sorted(state.items()))
