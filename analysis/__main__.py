"""`python -m analysis RUN`: gather a run again, rewrite its Parquet, verdicts and report, print the verdict.

Exit code: 0, or 2 for bad input (RUN is not a run).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from analysis.frames import Frames, as_rows
from analysis.gather import gather
from analysis.terminal import answer, counts_by_status, paths, show
from lth_trainable.errors import UserError

OK, BAD_INPUT = 0, 2


@dataclass(frozen=True, kw_only=True)
class Options:
    """Gather a run again: rewrite its Parquet, its verdicts and its report, and print the verdict.

    Nothing is trained. The files are RUN/analysis/{trials,epochs,layers,verdicts}.parquet and RUN/report.html.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, such as runs/digits, or its URI."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: run, answer, trials by status, verdicts, files."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = tyro.cli(Options, prog="python -m analysis", args=argv)
    run = options.run.rstrip("/")
    try:
        frames = gather(run)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    if options.json:
        print(json.dumps(summary(frames, run), allow_nan=False))
    else:
        show(Console(), frames, run)
    return OK


def summary(frames: Frames, run: str) -> dict[str, object]:
    """What `--json` prints: run, answer, number of trials by status, verdict rows, files."""
    return {
        "run": run,
        "answer": answer(frames.verdicts),
        "trials": counts_by_status(frames),
        "verdicts": as_rows(frames.verdicts),
        "files": paths(run),
    }


if __name__ == "__main__":
    sys.exit(main())
