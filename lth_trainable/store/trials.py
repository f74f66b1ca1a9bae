"""Reads the trials of a run from the store: records, failures, masks and networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lth_trainable.errors import UserError
from lth_trainable.safe_text import one_line, printable
from lth_trainable.spec.trial_spec import spec_from_dict
from lth_trainable.store.checkpoint import read_about
from lth_trainable.store.contents import read_record
from lth_trainable.store.json_files import NotJson, object_from_json
from lth_trainable.store.names import is_name
from lth_trainable.store.store import FAILURE, MANIFEST, MASKS, WEIGHTS, Damaged, Sealed, Store, split_query

if TYPE_CHECKING:
    from torch import nn


@runtime_checkable
class HasFolder(Protocol):
    """A checkpoint of Ray Tune, for a module that does not import Ray."""

    def as_directory(self) -> AbstractContextManager[str]: ...


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why the last attempt at a trial failed.

    traceback: Python's, empty if none was stored. launch: id of the launch of Ray Tune it was made in. is_last: whether
    that launch makes no other attempt.
    """

    reason: str
    traceback: str = ""
    launch: str = ""
    is_last: bool = True


def open_run(path: str | Path) -> tuple[Store, str]:
    """Split the path or URI of a run, such as `runs/digits`, into its store and its name."""
    storage, name = _split(str(path), "/")
    return Store(storage or "."), name


def open_trial(path: str | Path) -> tuple[Store, str, str]:
    """Split the path or URI of a trial, such as `runs/digits/trials/NAME`, into its store and the names of both."""
    run_path, name = _split(str(path), "/trials/")
    return *open_run(run_path), name


def _split(path: str, at: str) -> tuple[str, str]:
    """The text before and after the last `at`; the query of a URI stays with the first."""
    base, query = split_query(path)
    before, _, after = base.rstrip("/").rpartition(at)
    return f"{before}{query}", after


def read_failure(store: Store, path: str) -> Failure | None:
    """Why the last attempt at a trial failed, from its `failure.json`; None if there is no such file.

    path: folder of the trial, see `Store.trial`. If the file is unreadable, the reason says so.
    """
    try:
        content = store.read_as(f"{path}/{FAILURE}", object_from_json)
        return Failure(
            reason=one_line(content["reason"]), traceback=printable(content.get("traceback", "")),
            launch=str(content.get("launch", "")), is_last=content.get("last") is not False,
        )  # fmt: skip
    except FileNotFoundError:
        return None
    except (NotJson, KeyError):
        return Failure(reason=f"{FAILURE} is unreadable")


def finished_trials(store: Store, run: str) -> Iterator[tuple[Sealed, dict[str, Any]]]:
    """Yield each finished trial of a run with its record, sorted by name. Raises `Damaged` for a damaged one."""
    for name in store.folders(f"{run}/trials"):
        folder = store.find(store.trial(run, name))
        if folder is not None:
            yield folder, read_record(store, folder)


def load_masks(store: Store, folder: Sealed) -> dict[int, dict[str, Any]]:
    """The masks of a trial by level, then by parameter name: Boolean arrays, True where the weight is kept."""
    from lth_trainable.store.tensor_files import levels_of  # numpy and safetensors take a moment to import

    return levels_of(store, folder, read_record(store, folder)["shapes"])


def load_trial(path: str | Path | HasFolder, which: str = "final") -> nn.Module:
    """The network of a trial with its last mask applied, in evaluation mode on the CPU.

    path: the folder of a finished trial, such as `runs/digits/trials/digits-lenet_300_100-imp-s64-r0-seed0`; or a
    checkpoint of Ray Tune (`result.checkpoint`), or its folder.
    which: "final", "initial" or "rewind" weights. "final" of a checkpoint are those of its level's end. Raises
    `UserError` if there is no such trial.
    """
    if isinstance(path, HasFolder):
        with path.as_directory() as folder:
            return load_trial(folder, which)
    about = read_about(path)
    if about is not None:
        from lth_trainable.store.checkpoint_network import network_of

        return network_of(path, about, which)
    store, run, name = open_trial(path)
    if not is_name(run) or not is_name(name):
        raise UserError(f"{path}: found no finished trial; expected a folder RUN/trials/TRIAL with a {MANIFEST}")
    try:
        return _load(store, store.trial(run, name), which)
    except Damaged as damage:
        raise UserError(f"{damage}; rerun the sweep's command to train this trial again") from damage


def _load(store: Store, path: str, which: str) -> nn.Module:
    import torch

    from lth_trainable.models.networks import build
    from lth_trainable.store.tensor_files import check_like, levels_of, tensors_of

    folder = store.find(path)
    if folder is None:
        raise UserError(f"{path}: found no finished trial; expected a folder RUN/trials/TRIAL with a {MANIFEST}")
    record = read_record(store, folder)
    reference = folder.manifest["states"].get(which)
    state = store.find(reference) if reference else None
    if state is None:
        there = f"{reference} is missing" if reference else f"it has {', '.join(folder.manifest['states'])}"
        raise UserError(f"{path}: found no {which} weights; {there}")
    weights = tensors_of(store, state, WEIGHTS)
    spec = spec_from_dict(record["spec"])
    with torch.random.fork_rng():
        model = build(spec.model, tuple(record["data"]["shape"]), record["data"]["n_classes"], spec.width_pct)
    check_like(state, WEIGHTS, weights, model.state_dict())
    model.load_state_dict(weights)
    levels = levels_of(store, folder, record["shapes"])
    masks, parameters = levels.get(max(levels, default=0), {}), dict(model.named_parameters())
    check_like(folder, MASKS, masks, {name: parameters.get(name, mask) for name, mask in masks.items()})
    for name, mask in masks.items():
        model.get_parameter(name).data.mul_(torch.from_numpy(mask))
    return model.eval()
