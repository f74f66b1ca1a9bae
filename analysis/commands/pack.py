"""`python -m analysis pack RUN`: pack a run into one file for a colleague."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from analysis.export.archive import pack
from analysis.text import human_bytes, plural
from lth_trainable.errors import OK
from lth_trainable.options import parsed
from lth_trainable.safe_text import one_line

TICKETS_HELP = (
    "Tickets to include with their weights. best: the sparsest tickets that match the dense network, one per seed (if "
    "none match: those with the best difference). matching: the sparsest that match of each rewind point, lowest seed. "
    "NAME: a trial, or a group of trials (a name without the seed)."
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Pack a run into one .tar.gz: tables, report, plan, records, README.txt, and tickets with their weights.

    It can be unpacked anywhere; README.txt says how to read it. The same run gives the same bytes.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, such as runs/digits, or its URI."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The archive; an existing one is replaced. Default: the run's name and .tar.gz, in the working folder."""
    tickets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="best|matching|all|none|NAME ...", help=TICKETS_HELP)] = (
        "best",
    )
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: archive, bytes, tickets, why."""


def main(arguments: Sequence[str]) -> int:
    """Pack and print what was packed; returns the exit code. Raises `UserError` for bad input."""
    options = parsed(Options, prog="python -m analysis pack", args=arguments)
    packed = pack(options.run, options.out, options.tickets)
    if options.json:
        about = {"archive": str(packed.path), "bytes": packed.bytes, "tickets": packed.tickets.trials}
        print(json.dumps({**about, "why": packed.tickets.why}))
        return OK
    count = len(packed.tickets.trials)
    tickets = plural(count, "ticket") if count else "no tickets"
    print(one_line(f"{packed.path}: {human_bytes(packed.bytes)} with {tickets}: {packed.tickets.why}"))
    return OK
