"""Write tickets as folders that need only torch, for `python -m analysis export` and `pack`.

    NAME/{initial,rewind,final}.{safetensors,pt}    state_dicts with the final mask applied: dense tensors with zeros
    NAME/dense/{initial,rewind}.{safetensors,pt}    the same weights without the mask
    NAME/masks.{safetensors,pt}                     Boolean tensors, True for weights that are kept
    NAME/ticket.json                                provenance: spec, result, keys, SHA-256, versions
    NAME/load_ticket.py                             loads all of this, and needs only torch

The same trial gives the same bytes: nothing depends on when, where or by whom the files are written.
`final.safetensors` has the SHA-256 that the trial's record states for its weights.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from analysis.tables.exclusions import unknown_trial
from analysis.tables.run_plan import find_run
from lth_trainable.errors import UserError, bad_value
from lth_trainable.store.names import is_name
from lth_trainable.store.store import MANIFEST, MASKS, WEIGHTS, Damaged, Sealed, Store, to_json
from lth_trainable.store.trials import load_masks, open_trial, read_failure, read_record
from lth_trainable.tensors import row_major
from lth_trainable.unfinished import remove_abandoned

if TYPE_CHECKING:
    from torch import Tensor

    from lth_trainable.pruning.ticket import Ticket

FORMAT = "lottery-ticket folder 1"
ABOUT, LOADER, DENSE = "ticket.json", "load_ticket.py", "dense"
PARTS = ("initial", "rewind", "final")  # like `lth_trainable.pruning.ticket`, which would import torch
MANY = 20  # of more trials, errors list all names without checking which are finished

Tensors = Mapping[str, "Tensor"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported folder. parts: the weights in it. result: from the trial's record. bytes: the size of all files."""

    trial: str
    path: Path
    parts: tuple[str, ...]
    bytes: int
    result: Mapping[str, Any]


def export(trials: Sequence[str], out: str | Path = ".", which: Sequence[str] = ()) -> list[Exported]:
    """Write a folder for each trial into `out`, completely or not at all; an older export of the trial is replaced.

    trials: paths of trial folders, such as runs/digits/trials/NAME, or the path of a run followed by names of its
    trials. which: some of `PARTS`, or empty for all that a trial has. Raises `UserError` if a trial is unknown (before
    anything is written), or if weights cannot be read or written.
    """
    found = list(find_trials(trials))
    names = [store.trial(run, name).rpartition("/")[2] for store, run, name in found]
    for name in names:
        if names.count(name) > 1:
            raise bad_value("TRIAL", name, "trials of different names", "export them to different folders (--out)")
    return [_export(store, run, name, Path(out).expanduser(), which) for store, run, name in found]


# -- which trials ----------------------------------------------------------------------------------------------------


def find_trials(texts: Sequence[str]) -> Iterator[tuple[Store, str, str]]:
    """Store, run and name of each trial. Raises `UserError`."""
    run: tuple[Store, str] | None = None
    last: str | None = None if texts else ""  # a run whose trials have not been named yet
    for text in texts:
        trial = _trial_at(text)
        if trial is not None:
            yield trial
        elif run is None or "/" in text:
            _check_named(last)
            run, last = find_run(text), text
        else:
            yield *run, _known(*run, text)
            last = None
    _check_named(last)


def _trial_at(text: str) -> tuple[Store, str, str] | None:
    """The trial whose folder is at this path or URI; None if there is no finished trial."""
    path = text if "://" in text else os.path.abspath(os.path.expanduser(text))
    if "/trials/" not in path:
        return None
    store, run, name = open_trial(path)
    if not is_name(name):
        return None
    if _is_finished(store, run, name):
        return store, run, name
    _refuse_failed(store, run, name)
    return None


def _refuse_failed(store: Store, run: str, name: str) -> None:
    """Raise `UserError` if the trial has failed."""
    failure = read_failure(store, store.trial(run, name)) if is_name(name) else None
    if failure is not None:
        raise UserError(
            f"{name}: found a failed trial, which has no network ({failure.reason}); rerun the sweep's command with "
            "--retry-failed"
        )


def _known(store: Store, run: str, name: str) -> str:
    if _is_finished(store, run, name):
        return name
    _refuse_failed(store, run, name)
    names = store.folders(f"{run}/trials")
    finished = [name for name in names if _is_finished(store, run, name)] if len(names) < MANY else names
    raise unknown_trial(f"TRIAL of {store.at(run)}", name, finished, "the name of a finished trial")


def _is_finished(store: Store, run: str, name: str) -> bool:
    return store.exists(f"{store.trial(run, name)}/{MANIFEST}")


def _check_named(run: str | None) -> None:
    if run is not None:
        raise bad_value("TRIAL", run, "the path of a trial, or that of a run and names of its trials after it")


# -- from the store --------------------------------------------------------------------------------------------------


def read_ticket(store: Store, run: str, name: str, which: Sequence[str] = ()) -> Ticket:
    """Final mask, weights and provenance of a finished trial. which: some of `PARTS`, or empty for all it has.

    Raises `Damaged` if files are missing or damaged, and `UserError` for weights that the trial never had.
    """
    from lth_trainable.pruning.ticket import Ticket  # torch takes a second to import, and archives may have no tickets
    from lth_trainable.store.tensor_files import check_like

    trial = store.find(store.trial(run, name))
    if trial is None:
        raise Damaged(name, "it is no longer there")
    has = [part for part in PARTS if part in trial.manifest["states"]]
    for part in which:
        if part not in has:
            raise bad_value("--which", part, f"of {', '.join(has)}", f"{name} has no others")
    levels = load_masks(store, trial)
    masks = levels.get(max(levels, default=0), {})
    weights = {part: _weights(store, trial, part) if part in (which or has) else {} for part in PARTS}
    for part in (part for part in PARTS if weights[part]):
        check_like(trial, MASKS, masks, {name: weights[part].get(name) for name in masks})
    return Ticket(masks=masks, provenance=_provenance(read_record(store, trial)), **weights)


def read_or_refuse(store: Store, run: str, name: str, which: Sequence[str] = ()) -> Ticket:
    """As `read_ticket`. Raises `UserError` for damage, too."""
    try:
        return read_ticket(store, run, name, which)
    except Damaged as damage:
        raise UserError(f"{name}: cannot be read ({damage}); rerun the sweep's command to train it again") from damage


def _weights(store: Store, trial: Sealed, part: str) -> Tensors:
    from lth_trainable.store.tensor_files import tensors_of

    path = trial.manifest["states"][part]
    state = store.find(path)
    if state is None:
        raise Damaged(path, f"the {part} weights are missing")
    return tensors_of(store, state, WEIGHTS)


def _provenance(record: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a record that say where a ticket comes from; the tables have its epochs and layers."""
    parts = ("trial", "key", "spec", "data", "result", "states", "fingerprint", "versions", "sha256")
    restored = {"restored": record["restored"]} if "restored" in record else {}
    return {part: record[part] for part in parts} | restored


# -- to files --------------------------------------------------------------------------------------------------------


def write_ticket(ticket: Ticket, folder: Path, formats: Sequence[str] = ("safetensors", "pt")) -> tuple[str, ...]:
    """Create the folder and write the ticket's files, except the loader; returns the names of the weights in it.

    formats: some of `FORMATS`.
    """
    import torch

    parts = tuple(part for part in PARTS if getattr(ticket, part))
    masks = {name: torch.from_numpy(mask) for name, mask in sorted(ticket.masks.items())}
    folder.mkdir(parents=True)
    _write(masks, folder / "masks", formats)
    for part in parts:
        weights = dict(sorted(getattr(ticket, part).items()))
        masked = {name: weight * masks[name] if name in masks else weight for name, weight in weights.items()}
        _write(masked, folder / part, formats)
        if masks and part != "final":
            (folder / DENSE).mkdir(exist_ok=True)
            _write(weights, folder / DENSE / part, formats)
    write_about(ticket, folder, parts)
    return parts


def write_about(ticket: Ticket, folder: Path, parts: Sequence[str]) -> None:
    """Write where the ticket comes from. parts: the weights that are in the folder."""
    shapes = {name: {"shape": list(m.shape), "n_kept": int(m.sum())} for name, m in sorted(ticket.masks.items())}
    about = {"format": FORMAT, "parts": parts, "masks": shapes, "provenance": dict(ticket.provenance)}
    (folder / ABOUT).write_bytes(to_json(about))


def write_loader(folder: Path) -> None:
    """Write the file that loads tickets with torch alone."""
    (folder / LOADER).write_bytes(files("analysis.export").joinpath(LOADER).read_bytes())


def _write(tensors: Tensors, path: Path, formats: Sequence[str]) -> None:
    own = row_major(tensors)
    for ending in formats:
        path.with_name(f"{path.name}.{ending}").write_bytes(FORMATS[ending](own))


def _as_safetensors(tensors: Tensors) -> bytes:
    from safetensors.torch import save

    return save(dict(tensors))


def _as_pt(tensors: Tensors) -> bytes:
    import torch

    buffer = io.BytesIO()  # torch would write the name of a path into the file
    torch.save(dict(tensors), buffer)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[Tensors], bytes]] = {"safetensors": _as_safetensors, "pt": _as_pt}


def _export(store: Store, run: str, name: str, out: Path, which: Sequence[str]) -> Exported:
    target = out / name
    if target.exists() and not (target / ABOUT).is_file():
        raise bad_value(f"--out {out}", f"a {name} that is no export", "a place where it is not")
    ticket = read_or_refuse(store, run, name, which)

    def fill(folder: Path) -> tuple[str, ...]:
        parts = write_ticket(ticket, folder)
        write_loader(folder)
        return parts

    parts, size = write_folder(target, f"--out {out}", fill)
    return Exported(trial=name, path=target, parts=parts, bytes=size, result=ticket.provenance["result"])


def write_folder(target: Path, flag: str, fill: Callable[[Path], T]) -> tuple[T, int]:
    """Let `fill` make a folder and put it at `target`, in place of what is there, completely or not at all.

    flag: what named the place, for the message. Returns what `fill` returns, and the size of all files in bytes.
    """
    above = target.parent
    try:
        above.mkdir(parents=True, exist_ok=True)
        remove_abandoned(above, ".export-????????")
        with tempfile.TemporaryDirectory(dir=above, prefix=".export-") as staged:
            folder = Path(staged, target.name)
            found = fill(folder)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if target.exists():  # moved, not deleted: a kill leaves the old export, the new one or none, never a part
                os.replace(target, Path(staged, f"{target.name}.replaced"))
            os.replace(folder, target)
    except OSError as error:
        raise UserError(f"{flag}: cannot be written ({error}); choose another place") from error
    return found, size
