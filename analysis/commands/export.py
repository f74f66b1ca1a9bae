"""`python -m analysis export TRIAL ...`: write tickets as folders that need only torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from analysis.export.tickets import Exported, export
from analysis.text import human_bytes
from lth_trainable.errors import OK
from lth_trainable.safe_text import one_line


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write tickets as folders that need only torch: weights as .safetensors and .pt, masks, provenance, a loader.

    docs/tickets.md describes the files; `python -m sweeps.lth_grid --import-ticket FOLDER` imports a folder again.
    """

    trials: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TRIAL ...")]
    """Paths of trials, such as runs/digits/trials/NAME, or a run and names of its trials: runs/digits NAME NAME."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path()
    """Where to put the folders. An older export of the same trial is replaced."""
    which: Annotated[
        tuple[Literal["initial", "rewind", "final"], ...], tyro.conf.arg(metavar="initial|rewind|final ...")
    ] = ()
    """Which weights to write. Default: all that the trial has."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: exports, each with trial, path, parts, bytes, result."""


def main(arguments: Sequence[str]) -> int:
    """Export and print what was written; returns the exit code. Raises `UserError` for bad input."""
    options = tyro.cli(Options, prog="python -m analysis export", args=arguments)
    exported = export(options.trials, options.out, options.which)
    if options.json:
        print(json.dumps({"exports": [_plain(one) for one in exported]}))
        return OK
    for one in exported:
        print(one_line(_line(one)))
    return OK


def _line(one: Exported) -> str:
    kept, all_ = one.result["n_kept"], one.result["n_weights"]
    accuracy = one.result["test_accuracy"]
    measured = "diverged" if accuracy is None else f"test accuracy {100 * accuracy:.2f} %"
    size = f"{human_bytes(one.bytes)}, {', '.join(one.parts)}"
    return f"{one.path}: {size}; keeps {kept:,} of {all_:,} weights, {measured}"


def _plain(one: Exported) -> dict[str, Any]:
    return {
        "trial": one.trial, "path": str(one.path), "parts": one.parts, "bytes": one.bytes, "result": dict(one.result),
    }  # fmt: skip
