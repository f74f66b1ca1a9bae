"""Which images both sides of each pair have right: what the crossed seeds x images test needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from analysis.stats.crossed import Outcomes
from analysis.tables.schema import Row
from lth_trainable.store.image_bits import unpack

_RIGHT = {  # column of an accuracy -> columns of its bits and of the number of its images
    "test_accuracy": ("test_right", "n_test"),
    "valid_accuracy": ("valid_right", "n_valid"),
    "early_stop_test_accuracy": ("early_stop_test_right", "n_test"),
}


def outcomes(
    tickets: Mapping[int, Sequence[Row]], others: Mapping[int, Sequence[Row]], seeds: Sequence[int], column: str
) -> Outcomes | None:
    """Ticket minus other, for each of these seeds and each image of the split of `column`, shape (seeds, images).

    A diverged trial has each image right in part, 1 / number of classes; of several trials of a seed the mean counts.
    None if that is not known: of trials of an earlier version, of other columns than accuracies; or if pairs were
    tested on different images, as with several split seeds, so that the images are samples of the seeds already.
    """
    rows = [row for seed in seeds for row in (*tickets[seed], *others[seed])]
    if column not in _RIGHT or not rows:
        return None
    bits, size = _RIGHT[column]
    known = [row for row in rows if row.get(bits) is not None]
    places = {(row["data_digest"], row["split_seed"], row[size]) for row in known}
    if len(places) != 1 or any(row["status"] == "done" for row in rows if row.get(bits) is None):
        return None
    n = next(iter(places))[-1]
    return np.stack([_right(tickets[seed], column, bits, n) - _right(others[seed], column, bits, n) for seed in seeds])


def _right(rows: Sequence[Row], column: str, bits: str, n: int) -> npt.NDArray[np.float64]:
    sides = [np.full(n, row[column]) if row.get(bits) is None else unpack(row[bits], n) for row in rows]
    return np.mean(sides, axis=0, dtype=np.float64)
