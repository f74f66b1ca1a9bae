"""`python -m analysis export TRIAL ...`: write tickets as folders that need only torch, or for the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from analysis.export.hub import HubFolder, export_to_hub
from analysis.export.push import check_push, push
from analysis.export.tickets import Exported, export
from analysis.text import human_bytes
from lth_trainable.errors import OK, UserError
from lth_trainable.options import parsed
from lth_trainable.safe_text import one_line


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write tickets as folders that need only torch: weights as .safetensors and .pt, masks, provenance, a loader.

    With --hub: write one trial for the Hugging Face Hub, with a model card, its verdict and how to repeat it. Needs
    pip install 'lottery-sweep[hub]'.

    docs/tickets.md describes the files; `python -m sweeps.lth_grid --import-ticket FOLDER` imports a folder again.
    """

    trials: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TRIAL ...")]
    """Paths of trials, such as runs/digits/trials/NAME, or a run and names of its trials: runs/digits NAME NAME."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where to put the folders. An older export of the same trial is replaced. Default: the working folder."""
    which: Annotated[
        tuple[Literal["initial", "rewind", "final"], ...], tyro.conf.arg(metavar="initial|rewind|final ...")
    ] = ()
    """Which weights to write. Default: all that the trial has."""
    hub: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Write one trial into this folder, for the Hub. An older export there is replaced."""
    push: Annotated[str | None, tyro.conf.arg(metavar="USER/NAME")] = None
    """With --hub: upload the folder to this repository, too. The token is that of `hf auth login`, or HF_TOKEN."""
    private: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With --push: make a new repository private."""
    license: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """With --hub: the license that you choose for the network, such as mit. Default: none, and the card says so."""
    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """With --hub: the folder of data sets in files; the card then says how images are normalised."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object: exports, each with trial, path, parts (--hub: files, notes, url), bytes, result."""


def main(arguments: Sequence[str]) -> int:
    """Export and print what was written; returns the exit code. Raises `UserError` for bad input."""
    options = parsed(Options, prog="python -m analysis export", args=arguments)
    if options.hub is not None:
        return _to_hub(options, options.hub)
    _check_without_hub(options)
    exported = export(options.trials, options.out or Path(), options.which)
    if options.json:
        print(json.dumps({"exports": [_plain(one) for one in exported]}))
        return OK
    for one in exported:
        print(one_line(_line(one.path, one.bytes, one.parts, one.result)))
    return OK


def _check_without_hub(options: Options) -> None:
    for flag in ("push", "private", "license", "data_root"):
        if getattr(options, flag):
            raise UserError(f"--{flag.replace('_', '-')}: found it alone; expected --hub FOLDER with it")


def _to_hub(options: Options, folder: Path) -> int:
    if options.out is not None:
        raise UserError("--out: found it with --hub; expected one of them: --hub FOLDER says where")
    if options.private and options.push is None:
        raise UserError("--private: found it alone; expected --push USER/NAME with it")
    if options.push is not None:
        check_push(options.push)
    one = export_to_hub(
        options.trials, folder, options.which, license=options.license, data_root=options.data_root
    )  # fmt: skip
    if not options.json:
        print(one_line(_line(one.path, one.bytes, one.files, one.result)))
        for note in one.notes:
            print(one_line(f"note: {note}"))
    url = None
    if options.push is not None:
        url = push(one.path, options.push, f"Upload {one.trial}", options.private)
        if not options.json:
            print(one_line(url))
    if options.json:
        print(json.dumps({"exports": [_plain_of_hub(one, url)]}))
    return OK


def _line(path: Path, size: int, parts: Sequence[str], result: Mapping[str, Any]) -> str:
    accuracy = result["test_accuracy"]
    measured = "diverged" if accuracy is None else f"test accuracy {100 * accuracy:.2f} %"
    kept = f"keeps {result['n_kept']:,} of {result['n_weights']:,} weights"
    return f"{path}: {human_bytes(size)}, {', '.join(parts)}; {kept}, {measured}"


def _plain(one: Exported) -> dict[str, Any]:
    return {
        "trial": one.trial, "path": str(one.path), "parts": one.parts, "bytes": one.bytes, "result": dict(one.result),
    }  # fmt: skip


def _plain_of_hub(one: HubFolder, url: str | None) -> dict[str, Any]:
    return {
        "trial": one.trial, "path": str(one.path), "files": one.files, "bytes": one.bytes, "result": dict(one.result),
        "notes": one.notes, "url": url,
    }  # fmt: skip
