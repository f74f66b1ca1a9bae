"""Write a trial as a repository of the Hugging Face Hub: `python -m analysis export RUN TRIAL --hub FOLDER`.

    README.md               the model card (`hub_card.py`)
    model.safetensors       the network as trained, with zeros where the mask removes; the bytes of the trial's record
    masks.safetensors       Boolean tensors under the same names, True for weights that are kept
    initial.safetensors     the weights at the start and at the rewind point, before the mask; one file where they are
    rewind.safetensors          the same
    config.json             network, images, classes, counts
    model.py                the network as a class of torch, and functions that load it
    ticket.json             provenance, as in every export, so that `--import-ticket FOLDER` reads it

The same trial of the same run gives the same bytes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.export.hub_card import model_card
from analysis.export.hub_facts import CardFacts, standing_of
from analysis.export.hub_network import NETWORK, define, model_py
from analysis.export.tickets import ABOUT, FORMATS, find_trials, read_or_refuse, write_about, write_folder
from lth_trainable.data.datasets import load_dataset
from lth_trainable.data.image_folders import LAYOUTS, is_downloaded
from lth_trainable.errors import UserError, bad_value
from lth_trainable.safe_text import one_line
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.store.store import Store, to_json
from lth_trainable.tensors import row_major

if TYPE_CHECKING:
    from lth_trainable.pruning.ticket import Ticket

FORMAT = "lottery-ticket hub 1"
PACKAGE = "huggingface_hub"
CARD, CONFIG, MODEL, MASKS = "README.md", "config.json", "model.safetensors", "masks.safetensors"
STARTS = ("initial", "rewind")
OURS = (CARD, CONFIG, MODEL, NETWORK, MASKS, ABOUT, *(f"{start}.safetensors" for start in STARTS))


@dataclass(frozen=True, kw_only=True)
class HubFolder:
    """A folder for the Hub that was written. files: their names. notes: what the user should know about it."""

    trial: str
    path: Path
    files: tuple[str, ...]
    bytes: int
    result: Mapping[str, Any]
    notes: tuple[str, ...]


def export_to_hub(
    trials: Sequence[str],
    target: str | Path,
    which: Sequence[str] = (),
    *,
    license: str | None = None,
    data_root: Path | None = None,
) -> HubFolder:
    """Write the folder `target` for one trial, completely or not at all; an older one of ours is replaced.

    trials: as for `export`, but one trial. which: weights of the start to write too, of `STARTS` ("final" alone: none);
    empty for all. license: its name on the Hub, for the card. data_root: where the images lie, for their normalisation
    and the names of classes. Raises `UserError`.
    """
    check_installed("--hub")
    target = Path(target).expanduser()
    found = list(find_trials(trials))
    if len(found) != 1:
        raise bad_value("--hub", f"{len(found)} trials", "one", "a repository of the Hub holds one network")
    [(store, run, name)] = found
    _check_place(target)
    ticket = read_or_refuse(store, run, name, [*which, "final"] if which else ())
    result = ticket.provenance["result"]
    if result["test_accuracy"] is None:
        raise UserError(f"{name}: found a trial that diverged, so it has no test accuracy; choose another trial")
    facts, notes = _facts(store, run, name, ticket, license, data_root)

    def fill(folder: Path) -> None:
        folder.mkdir(parents=True)
        _write(folder, ticket, facts)

    _, size = write_folder(target, f"--hub {target}", fill)
    names = tuple(sorted(path.name for path in target.iterdir()))
    return HubFolder(trial=name, path=target, files=names, bytes=size, result=result, notes=notes)


def check_installed(flag: str) -> None:
    """Raise `UserError` if the package for the Hub is missing."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(f"{flag}: found no package {PACKAGE}; pip install 'lottery-sweep[hub]'")


def _check_place(target: Path) -> None:
    """Raise `UserError` if the folder holds anything that would be lost, or cannot be replaced."""
    if target.name in ("", ".."):
        raise bad_value("--hub", str(target), "the name of a folder of its own, such as my-ticket")
    if not target.exists():
        return
    if not target.is_dir():
        raise bad_value("--hub", str(target), "a folder, or a place where nothing is")
    names = sorted(path.name for path in target.iterdir())
    if not names:
        return
    try:
        config = json.loads((target / CONFIG).read_text(encoding="utf-8"))
        card = None if config["format"] != FORMAT else config["card_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        card = None
    if card is None:
        raise bad_value("--hub", f"{target} with {', '.join(names[:3])}", "an empty folder, or an older export there")
    others = [name for name in names if name not in OURS]
    if others:
        raise bad_value("--hub", f"{target} with {others[0]} beside an older export", "nothing else", "move it away")
    text = (target / CARD).read_bytes() if (target / CARD).is_file() else None
    if text is not None and hashlib.sha256(text).hexdigest() != card:
        raise bad_value(
            "--hub", f"a {target / CARD} that was changed since", "an older export as it was written",
            "move it away, or export to another folder",
        )  # fmt: skip


# -- what is written -------------------------------------------------------------------------------------------------


def _facts(
    store: Store, run: str, name: str, ticket: Ticket, license: str | None, data_root: Path | None
) -> tuple[CardFacts, tuple[str, ...]]:
    about = ticket.provenance
    spec = spec_from_dict(about["spec"])
    images, lacks_images = _images(spec, about["data"]["digest"], data_root)
    definition, lacks_network = define(ticket, spec)
    starts = tuple(start for start in STARTS if getattr(ticket, start))
    if "rewind" in starts and "initial" in starts and about["states"]["rewind"] == about["states"]["initial"]:
        starts = ("initial",)
    facts = CardFacts(
        name=name, spec=spec, about=about, images=images, definition=definition, starts=starts,
        pruned=bool(ticket.masks), license=license, standing=standing_of(store, run, name),
    )  # fmt: skip
    return facts, tuple(filter(None, (lacks_images, lacks_network)))


def _images(spec: TrialSpec, digest: str, data_root: Path | None) -> tuple[dict[str, Any], str]:
    """Normalisation and names of the classes, and why they are not known, if they are not."""
    nothing: dict[str, Any] = {"pixels": None, "classes": None}
    dataset, *settings = spec.data_key
    if dataset in LAYOUTS and data_root is None and not is_downloaded(dataset):
        return nothing, f"the card does not say how images are normalised: {dataset} is not here; --data-root DIR"
    try:
        data = load_dataset(dataset, data_root, *settings)
    except (UserError, OSError) as error:
        why = one_line(error).partition(";")[0]
        return nothing, f"the card does not say how images are normalised, nor the classes ({why}); --data-root DIR"
    if data.digest != digest:
        return nothing, f"the card does not say how images are normalised: the data here ({dataset}) are others"
    how = getattr(data, "pixels", None)
    pixels = None if how is None else {
        "scale": how.scale, "mean": how.mean.ravel().tolist(), "std": how.std.ravel().tolist(),
    }  # fmt: skip
    return {"pixels": pixels, "classes": [str(label) for label in data.classes]}, ""


def _write(folder: Path, ticket: Ticket, facts: CardFacts) -> None:
    import torch

    masks = {name: torch.from_numpy(mask) for name, mask in sorted(ticket.masks.items())}
    final = {name: t * masks[name] if name in masks else t for name, t in sorted(ticket.final.items())}
    tensors = {MODEL: final, **({MASKS: masks} if masks else {})}
    tensors |= {f"{start}.safetensors": dict(sorted(getattr(ticket, start).items())) for start in facts.starts}
    for name, content in tensors.items():
        (folder / name).write_bytes(FORMATS["safetensors"](row_major(content)))
    write_about(ticket, folder, [*facts.starts, "final"])
    if facts.definition.made:
        (folder / NETWORK).write_text(model_py(facts), encoding="utf-8")
    card = model_card(facts).encode()
    (folder / CARD).write_bytes(card)
    (folder / CONFIG).write_bytes(to_json({**config(facts), "card_sha256": hashlib.sha256(card).hexdigest()}))


def config(facts: CardFacts) -> dict[str, Any]:
    """The content of `config.json`, without the digest of the card."""
    data, result = facts.about["data"], facts.about["result"]
    return {
        "format": FORMAT, "architecture": facts.spec.model, "width_pct": facts.spec.width_pct,
        "shape": data["shape"], "n_classes": data["n_classes"], **facts.images,
        "sparsity_pct": result["sparsity_pct"], "n_weights": result["n_weights"], "n_kept": result["n_kept"],
        "test_accuracy": result["test_accuracy"], "trial": facts.name, "key": facts.about["key"],
        "spec": dict(facts.about["spec"]),
    }  # fmt: skip
