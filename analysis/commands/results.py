"""`python -m analysis results RUN`: keep the results of a finished run in the project's folder `results`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from analysis.export.results import Time, keep
from analysis.text import human_bytes
from lth_trainable.errors import OK, bad_value
from lth_trainable.options import parsed
from lth_trainable.safe_text import one_line


@dataclass(frozen=True, kw_only=True)
class Options:
    """Keep tables, report, archive and a log of the machine of a finished run in OUT/NAME, small enough to commit.

    Commands are kept without places (storage, data folder, cluster). See results/README.md.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a finished run, such as runs/digits, or its URI."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("results")
    """Folder in which NAME is written; results of the same name are replaced."""
    seconds: Annotated[float | None, tyro.conf.arg(metavar="S")] = None
    """How long the run's command took, on the wall."""
    gpus: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many GPUs it had. Default: 1 if it was trained on GPUs, else 0."""
    note: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT ...")] = ()
    """What a reader should know beside the recipe, such as that the images are other ones; kept in machine.json."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: path, bytes, and the content of machine.json."""


def main(arguments: Sequence[str]) -> int:
    """Write the results and print what was written; returns the exit code. Raises `UserError` for bad input."""
    options = parsed(Options, prog="python -m analysis results", args=arguments)
    for name, value in (("seconds", options.seconds), ("gpus", options.gpus)):
        if value is not None and value <= 0:
            raise bad_value(name, value, "more than 0")
    kept = keep(options.run, options.out, Time(seconds=options.seconds, gpus=options.gpus), notes=options.note)
    if options.json:
        print(json.dumps({"path": str(kept.path), "bytes": kept.bytes, "machine": dict(kept.machine)}))
    else:
        machine = kept.machine
        print(one_line(
            f"{kept.path}: {human_bytes(kept.bytes)}; {machine['trials_done']:,} of {machine['trials']:,} trials done; "
            f"{machine['epochs_trained']:,} of {machine['epochs_asked_for']:,} epochs trained; "
            f"archive {machine['archive']}"
        ))  # fmt: skip
    return OK
