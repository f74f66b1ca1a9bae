"""`python -m analysis RUN`: gather a run again, rewrite its Parquet, verdicts and report, print the verdict.

    python -m analysis RUN [--json]
    python -m analysis pack RUN [--out FILE] [--tickets best|all|none|NAME ...] [--json]    one file for a colleague

Exit code: 0, or 2 for bad input (RUN is not a run).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
    `python -m analysis pack RUN` puts a run into one file for a colleague (a run in a folder named pack is ./pack).
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, such as runs/digits, or its URI."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: run, answer, trials by status, verdicts, files."""


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """Put a run into one .tar.gz: Parquet, report, plan, records, README.txt, and tickets with their weights.

    What it unpacks to may lie anywhere; README.txt says how to read it. The same run gives the same bytes.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, such as runs/digits, or its URI."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The archive; None: the run's name and .tar.gz, in the working folder. An older one is replaced."""
    tickets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="best|all|none|NAME ...")] = ("best",)
    """Whose weights go with it. best: of the sparsest tickets that match the dense network (none match: of the best
    difference), one of each seed. NAME: a trial, or a group of them (its name without the seed)."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: archive, bytes, tickets, why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _pack(arguments[1:]) if arguments[:1] == ["pack"] else _gather(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT


def _gather(arguments: Sequence[str]) -> int:
    options = tyro.cli(Options, prog="python -m analysis", args=arguments)
    run = options.run.rstrip("/")
    frames = gather(run)
    if options.json:
        print(json.dumps(summary(frames, run), allow_nan=False))
    else:
        show(Console(), frames, run)
    return OK


def _pack(arguments: Sequence[str]) -> int:
    from analysis.pack import pack

    options = tyro.cli(PackOptions, prog="python -m analysis pack", args=arguments)
    packed = pack(options.run, options.out, options.tickets)
    if options.json:
        about = {"archive": str(packed.path), "bytes": packed.bytes, "tickets": packed.tickets.trials}
        print(json.dumps({**about, "why": packed.tickets.why}))
        return OK
    count = len(packed.tickets.trials)
    tickets = f"{count or 'no'} ticket{'s' * (count != 1)}"
    print(f"{packed.path}: {packed.bytes / 1e6:.1f} MB with {tickets}: {packed.tickets.why}")
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
