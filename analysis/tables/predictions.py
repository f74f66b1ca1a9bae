"""The table of predictions: one row for each trial, split and image, from the bits of the table of trials.

It is made on demand, since a run of 100 trials on MNIST has three million rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from analysis.tables.columns import BOOL, INT, TEXT, column, table_schema
from lth_trainable.store.image_bits import unpack

PREDICTIONS = "predictions"
SPLITS = {"valid": "n_valid", "test": "n_test", "early_stop_test": "n_test"}  # each with the column of its size

SCHEMA = table_schema(PREDICTIONS, "one row for each trial, split and image; written by analysis predictions", [
    column("run", TEXT, "name", "folder of the run", "name of the run", nullable=False),
    column("trial", TEXT, "name", "plan.json: name", "name of the trial", nullable=False),
    column("split", TEXT, "name", "computed", f"one of {', '.join(SPLITS)}; the last is the test split at the early "
           "stop", nullable=False),
    column("image", INT, "number", "computed", "place of the image in its split, from 0; the split follows from the "
           "data set and split_seed", nullable=False),
    column("right", BOOL, "true or false", "record.json: right", "whether the network has its class right",
           nullable=False),
])  # fmt: skip


def predictions_table(trials: pa.Table) -> pa.Table:
    """The table, trials and splits in the order of the table of trials; without those of which nothing is known."""
    return pa.concat_tables([SCHEMA.empty_table(), *_parts(trials)])


def _parts(trials: pa.Table) -> Iterator[pa.Table]:
    columns = ["run", "trial", *{*SPLITS.values()}, *(f"{split}_right" for split in SPLITS)]
    for row in trials.select(columns).to_pylist():
        for split, size in SPLITS.items():
            packed, n = row[f"{split}_right"], row[size]
            if packed is not None and n is not None:
                names = [pa.repeat(pa.scalar(text, TEXT), n) for text in (row["run"], row["trial"], split)]
                yield pa.table([*names, pa.array(np.arange(n)), pa.array(unpack(packed, n))], schema=SCHEMA)
