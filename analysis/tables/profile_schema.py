"""The columns of a trial that was trained with `--profile`: where its time went. Null for all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from analysis.tables.columns import FLOAT, column
from lth_trainable.stopwatch import PARTS

PART_WORDS = {
    "import": "loading torch, fastai and this project",
    "data": "loading the data set and copying it to the device",
    "network": "building network, optimiser and callbacks, with the libraries that this loads",
    "capture": "capturing training steps as CUDA graphs",
    "training": "training, with the making of batches",
    "validation": "evaluation on validation and test images",
    "pruning": "pruning, rewinding and controls",
    "storing": "reading and writing states",
    "waiting": "reports to Ray, with checkpoints",
    "measuring": "what the profile itself costs",
    "other": "everything else, such as keys and fingerprints",
}
assert tuple(PART_WORDS) == PARTS
_FIELDS: tuple[tuple[str, str, str], ...] = (
    ("wall_seconds", "seconds", "wall time of the trial in its worker, up to its record; the parts add up to it"),
    ("idle_seconds", "seconds", "time of the worker before the trial: since its last one, or since the process began"),
    (
        "kernel_share",
        "part of the time (0..1)",
        "share of the second epoch's training in which the GPU worked; null on a CPU",
    ),
    ("multiply_adds", "multiply-adds", "dense, of what it trained itself: conv and linear layers, 3 forward passes"),
    ("peak_multiply_adds", "multiply-adds per second", "of a large matrix product, measured once in each worker"),
    ("floor_seconds", "seconds", "least time of the arithmetic: multiply_adds / peak_multiply_adds"),
)


def profile_columns() -> list[pa.Field]:
    """One column for each number of a record's profile, and one for each part of the time."""
    source = "record.json: profile"
    return [
        *(column(f"profile_{name}", FLOAT, unit, f"{source}.{name}", words) for name, unit, words in _FIELDS),
        *(
            column(f"profile_{name}_seconds", FLOAT, "seconds", f"{source}.seconds.{name}", words)
            for name, words in PART_WORDS.items()
        ),
    ]


def profile_values(profile: Mapping[str, Any] | None) -> dict[str, float | None]:
    """The values of these columns; none for a trial that was not profiled."""
    if profile is None:
        return {}
    return {
        **{f"profile_{name}": profile.get(name) for name, *_ in _FIELDS},
        **{f"profile_{name}_seconds": profile["seconds"].get(name) for name in PARTS},
    }
