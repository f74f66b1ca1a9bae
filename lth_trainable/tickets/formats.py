"""Reads tickets from the file formats of other tools. Unpickles tensors only.

* A state_dict (.safetensors, .pt, .pth, .bin, .ckpt), alone or as the only entry with tensors in a checkpoint. Masks
  are entries `NAME_mask` beside `NAME` or `NAME_orig` (torch.nn.utils.prune), or come from a separate file; otherwise
  a weight is kept if it is not zero.
* A file of `save_ticket`.
* A folder of `python -m analysis export`.
* A folder of OpenLTH (github.com/facebookresearch/open_lth, 2020): `level_L` or `level_L/main` with `mask.pth` and
  `model_epE_itI.pth`. The model with the lowest step is the masked start of the level. Its unmasked weights are read
  from `level_0`, if that is beside it.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lth_trainable.errors import UserError, bad_value
from lth_trainable.pruning.ticket import load_ticket
from lth_trainable.spec.rewind_point import RewindPoint

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".tar")
EXPORT, OPEN_LTH = "ticket.json", "mask.pth"
_MODEL = re.compile(r"model_ep(\d+)_it(\d+)\.pth")
_WITHIN = "within epoch {}, at whose beginning training starts here"
_FORMATS = "a .safetensors or .pt file of tensors by name, a folder of `analysis export`, or a level of OpenLTH"

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class TicketFile:
    """A ticket with the tensor names of its file.

    masks: None if only zeros tell which weights are removed. epoch: of the weights, if the file says so. notes: what
    the user should know about how the file was read.
    """

    source: str
    weights: Tensors
    masks: Tensors | None = None
    epoch: int = 0
    notes: tuple[str, ...] = ()


def read_foreign(path: Path, masks: Path | None = None) -> TicketFile:
    """Read the ticket at `path`, with masks from the file `masks` if that is not None. Raises `UserError`."""
    if path.is_dir():
        found = _read_folder(path)
    elif path.is_file():
        found = _read_file(path)
    else:
        raise bad_value("--import-ticket", str(path), _FORMATS, "there is no such file or folder")
    if masks is None:
        return found
    if found.masks is not None:
        raise bad_value("--import-masks", str(masks), "none", f"{path} has masks of its own")
    tensors, notes = _load(masks, "--import-masks")
    return replace(
        found, masks={name.removesuffix("_mask"): mask for name, mask in tensors.items()}, notes=(*found.notes, *notes)
    )


# -- files -----------------------------------------------------------------------------------------------------------


def _read_file(path: Path) -> TicketFile:
    if path.suffix == ".safetensors" and _is_ticket(path):
        ticket = load_ticket(path)
        return TicketFile(
            source=path.name, weights=ticket.rewind or ticket.initial,
            masks={name: torch.from_numpy(mask) for name, mask in ticket.masks.items()},
            epoch=int(ticket.provenance.get("rewind_epoch") or 0) if ticket.rewind else 0,
        )  # fmt: skip
    tensors, notes = _load(path, "--import-ticket")
    weights, masks = _split_masks(tensors)
    return TicketFile(source=path.name, weights=weights, masks=masks or None, notes=notes)


def _is_ticket(path: Path) -> bool:
    try:
        with safe_open(str(path), framework="pt") as file:
            return "ticket" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False  # reading the file then reports what is wrong


def _split_masks(tensors: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a state_dict that may contain masks too into weights and masks."""
    masks = {}
    for name, tensor in tensors.items():
        of = name.removesuffix("_mask")
        if of != name and (of in tensors or f"{of}_orig" in tensors):
            masks[of] = tensor
    originals = {f"{name}_orig": name for name in masks}
    not_weights = {f"{name}_mask" for name in masks}
    return {originals.get(name, name): t for name, t in tensors.items() if name not in not_weights}, masks


def _load(path: Path, flag: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors by name from a file, and notes on how it was read. Raises `UserError`."""
    if path.suffix != ".safetensors" and path.suffix not in PICKLED:
        raise bad_value(flag, str(path), _FORMATS)
    try:
        if path.suffix == ".safetensors":
            with safe_open(str(path), framework="pt") as file:
                content: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{flag} {path}: is damaged, or holds more than tensors, and unpickling that could run any code; save only "
            "model.state_dict(), or use .safetensors"
        ) from error
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{flag} {path}: cannot be read ({reason}); expected {_FORMATS}") from error
    except Exception as error:  # bytes that are not a pickle can raise any exception
        raise UserError(f"{flag} {path}: is not a file of torch.save; expected {_FORMATS}") from error
    return _state_dict(content, path, flag)


def _state_dict(content: Any, path: Path, flag: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    if _is_state_dict(content):
        return dict(content), ()
    inner = [key for key, value in content.items() if _is_state_dict(value)] if isinstance(content, Mapping) else []
    if len(inner) == 1:
        return dict(content[inner[0]]), (f"the entry {inner[0]} of {path.name}",)
    found = f"several: {', '.join(map(str, inner))}" if inner else f"a {type(content).__name__} without one"
    raise UserError(f"{flag} {path}: found {found}; expected one state_dict, tensors by name; save only that")


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


# -- folders ---------------------------------------------------------------------------------------------------------


def _read_folder(path: Path) -> TicketFile:
    if (path / EXPORT).is_file():
        return _read_export(path)
    for folder in (path, path / "main"):
        if (folder / OPEN_LTH).is_file():
            return _read_open_lth(folder)
    raise bad_value(
        "--import-ticket", str(path), f"a folder with {EXPORT} (analysis export) or {OPEN_LTH} (a level of OpenLTH)"
    )


def _read_export(path: Path) -> TicketFile:
    """The weights from which the exported trial was trained: those of its rewind point, else the initial ones."""
    try:
        about = json.loads((path / EXPORT).read_text(encoding="utf-8"))
        parts, provenance = about["parts"], about["provenance"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--import-ticket {path}: {EXPORT} is unreadable ({error}); export the trial again") from error
    which = next((which for which in ("rewind", "initial") if which in parts), None)
    if which is None:
        raise bad_value(
            "--import-ticket", str(path), "an export with rewind or initial weights", "it has only final weights"
        )
    weights, _ = _load(_either(path / "dense" / which, path / which), "--import-ticket")
    masks, _ = _load(_either(path / "masks"), "--import-ticket") if about["masks"] else ({}, ())
    spec, data = provenance["spec"], provenance["data"]
    point, notes = RewindPoint.of(spec.get("rewind_epoch"), spec.get("rewind_step")), [f"its {which} weights"]
    epoch = 0 if point is None else point.epoch_at(-(-data["n_train"] // spec["batch_size"]))
    if point is not None and point.iteration is not None:
        notes.append(f"of {point.in_words}, within epoch {epoch}, at whose beginning training starts here")
    return TicketFile(
        source=path.name,
        weights=weights,
        masks=masks,
        epoch=epoch if which == "rewind" else 0,
        notes=(", ".join(notes),),
    )


def _either(*stems: Path) -> Path:
    """The first of these files that exists, in either format."""
    paths = [stem.with_name(stem.name + ending) for stem in stems for ending in (".safetensors", ".pt")]
    return next((path for path in paths if path.is_file()), paths[-1])


class _Step(NamedTuple):
    epoch: int
    iteration: int


def _read_open_lth(folder: Path) -> TicketFile:
    models = {
        _Step(*map(int, found.groups())): path
        for path in folder.iterdir()
        if (found := _MODEL.fullmatch(path.name)) is not None
    }
    if not models:
        raise bad_value("--import-ticket", str(folder), "a model_epE_itI.pth beside mask.pth", "it has none")
    step = min(models)
    masks, _ = _load(folder / OPEN_LTH, "--import-ticket")
    weights, _ = _load(models[step], "--import-ticket")
    level = folder.parent if folder.name == "main" else folder
    notes = [f"start of OpenLTH's {level.name}"]
    if step.iteration:
        notes.append(f"of iteration {step.iteration}, {_WITHIN.format(step.epoch)}")
    dense = folder.parent.parent / "level_0" / "main" / models[step].name
    if dense.is_file():
        unmasked, _ = _load(dense, "--import-ticket")
        if _agree(unmasked, weights, masks):
            weights = unmasked
            notes.append("weights outside the mask from its level_0")
        else:
            notes.append("its level_0 has other weights under this mask and is not used")
    return TicketFile(source=level.name, weights=weights, masks=masks, epoch=step.epoch, notes=(", ".join(notes),))


def _agree(unmasked: Tensors, weights: Tensors, masks: Tensors) -> bool:
    """Whether `weights` are the unmasked ones under the masks."""
    if _shapes(unmasked) != _shapes(weights) or not _shapes(masks).items() <= _shapes(weights).items():
        return False
    return all(torch.equal(unmasked[name] * masks.get(name, 1), weight) for name, weight in weights.items())


def _shapes(tensors: Tensors) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
