"""`python -m analysis predictions RUN`: write which images each network of a run has right, one row an image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from analysis.tables.index import write_noted
from analysis.tables.parquet import load, parquet_path
from analysis.tables.predictions import PREDICTIONS, predictions_table
from analysis.tables.run_plan import find_run
from lth_trainable.errors import OK, UserError
from lth_trainable.options import parsed
from lth_trainable.safe_text import one_line


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write RUN/analysis/predictions.parquet: which images each network has right, one row for each trial and image.

    It is made from the last gather, for the validation split, the test split, and the test split at the early stop.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, such as runs/digits, or its URI."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: the file and its number of rows."""


def main(arguments: Sequence[str]) -> int:
    """Write the table and print its path; returns the exit code. Raises `UserError` for bad input."""
    options = parsed(Options, prog="python -m analysis predictions", args=arguments)
    store, run = find_run(options.run)
    table = predictions_table(load(options.run).tables["trials"])
    if not table.num_rows:
        raise UserError(
            f"{options.run}: found no trial whose record says which images it has right: none is done, or an earlier "
            "version has trained them; train them again in another storage"
        )
    write_noted(store, run, PREDICTIONS, table)
    path = store.at(parquet_path(run, PREDICTIONS))
    if options.json:
        print(json.dumps({"file": path, "rows": table.num_rows}))
    else:
        print(f"{one_line(path)}  {table.num_rows:,} rows")
    return OK
