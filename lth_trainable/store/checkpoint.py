"""What a checkpoint of Ray Tune holds of a trial: `checkpoint.json`, and weights and masks as files of their own.

    checkpoint.json        which trial, level and states it is of, with the SHA-256 of each file
    weights.safetensors    the weights now: at the level's end, or of the finished trial
    masks.safetensors      bit-packed masks of every level so far; none before the first prune
    initial.safetensors    the weights at initialisation
    rewind.safetensors     the weights that tickets return to; none if the trial does not rewind

The files are those of the states in the store. A folder without them refers to the store. Does not import Ray or torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lth_trainable.errors import UserError
from lth_trainable.spec.chain_json import chain_as_json
from lth_trainable.store.json_files import NotJson, object_from_json
from lth_trainable.store.names import is_name, is_state
from lth_trainable.store.record import Identity
from lth_trainable.store.store import FORMAT, MASKS, WEIGHTS, Damaged, Store

CHECKPOINT = "checkpoint.json"
INITIAL, REWIND = "initial.safetensors", "rewind.safetensors"
_NAMES = {
    "final": WEIGHTS,
    "initial": INITIAL,
    "rewind": REWIND,
}  # by what `load_trial` asks for


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a new checkpoint holds. about: content of `checkpoint.json`. files: paths in the store by name."""

    about: Mapping[str, Any]
    files: Mapping[str, str]


def content_at(
    store: Store, trial: Identity, now: str, *, run: str, epochs: int, shape: tuple[int, ...], n_classes: int
) -> Content | None:
    """What a checkpoint at a state of the trial holds; None if that state is not stored.

    now: key of the state, one of the trial's chain. epochs: rows until there. shape: of an image. `left` in the content
    is the number of segments that are not done yet.
    """
    keys = {**trial.state_keys, "final": now}
    states: dict[str, str] = {}
    files: dict[str, dict[str, Any]] = {}
    for which, key in keys.items():
        try:
            folder = store.find(store.state(key, trial.fingerprint))
        except Damaged:  # the next one that needs it sets it aside
            folder = None
        if folder is None:
            continue
        states[which] = folder.path
        for name, file in ((_NAMES[which], WEIGHTS), *([(MASKS, MASKS)] if which == "final" else [])):
            entry = folder.manifest["files"].get(file)
            if entry is not None:
                files[name] = {"path": f"{folder.path}/{entry.get('file', file)}", "sha256": entry["sha256"]}
    if "final" not in states:
        return None
    index = next(i for i, segment in enumerate(trial.chain) if segment.key == now)
    about = {
        "format": FORMAT, "kind": "checkpoint", "store": store.uri, "run": run, "trial": trial.name,
        "spec": trial.spec.canonical(), "level": trial.chain[index].level, "epochs": epochs,
        "left": len(trial.chain) - 1 - index,
        "data": {"shape": list(shape), "n_classes": n_classes}, "states": states, "files": files,
        "restored": None if trial.restored is None else dict(trial.restored),
        "chain": chain_as_json(trial.chain[: index + 1]),
    }  # fmt: skip
    return Content(about=about, files={name: file["path"] for name, file in files.items()})


def read_about(folder: str | Path) -> dict[str, Any] | None:
    """The content of a folder's `checkpoint.json`; None if it has none. Raises `UserError` if it is unreadable."""
    store = Store(folder)
    try:
        about = store.read_as(CHECKPOINT, object_from_json)
        paths = [file["path"] for file in about["files"].values()]
        sound = about["kind"] == "checkpoint" and all(isinstance(about[name], dict) for name in ("spec", "data"))
        sound = sound and all(is_state(path.rpartition("/")[0]) and is_name(path.rpartition("/")[2]) for path in paths)
    except FileNotFoundError:
        return None
    except (NotJson, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(folder) from error
    if not sound:
        raise _unreadable(folder)
    if about.get("format") != FORMAT:
        raise UserError(f"{folder}: written in format {about.get('format')!r}; this version reads {FORMAT}")
    return about


def read_weights(folder: str | Path, about: Mapping[str, Any], which: str) -> bytes:
    """The file with these weights: "final", "initial" or "rewind". Raises `UserError`."""
    name = _NAMES.get(which, which)
    if name not in about["files"]:
        there = ", ".join(which for which, name in _NAMES.items() if name in about["files"])
        raise UserError(f"{folder}: found no {which} weights; it has {there}")
    return _read(folder, about, name)


def read_masks(folder: str | Path, about: Mapping[str, Any]) -> bytes | None:
    """The file with the masks; None before the first prune. Raises `UserError`."""
    return _read(folder, about, MASKS) if MASKS in about["files"] else None


def _read(folder: str | Path, about: Mapping[str, Any], name: str) -> bytes:
    """A file of the checkpoint, from its folder or else from the store that it refers to."""
    file = about["files"][name]
    try:
        content = Store(folder).read(name)
        where = f"{folder}/{name}"
    except FileNotFoundError:
        where = f"{about['store']}/{file['path']}"
        try:
            content = Store(about["store"]).read(file["path"])
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder}: found neither {name} in it nor {where}, which it refers to; expected one of them; the "
                "state may have been deleted (python -m sweeps.storage gc) or the store moved; train the trial again"
            ) from error
    if hashlib.sha256(content).hexdigest() != file["sha256"]:
        raise UserError(f"{where}: found other bytes than the checkpoint was made with; train the trial again")
    return content


def _unreadable(folder: str | Path) -> UserError:
    return UserError(f"{folder}: found a {CHECKPOINT} that is unreadable; expected one that a trial has written")
