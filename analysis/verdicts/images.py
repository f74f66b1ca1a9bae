"""Which images both sides of each pair have right: what the crossed seeds x images test needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from analysis.stats.crossed import Outcomes
from analysis.tables.schema import Row
from analysis.verdicts.splits import split_of
from lth_trainable.data.pools import Held, held_by
from lth_trainable.store.image_bits import unpack

_RIGHT = {  # column of an accuracy -> column of its bits, and the split whose images they are
    "test_accuracy": ("test_right", "test"),
    "valid_accuracy": ("valid_right", "valid"),
    "early_stop_test_accuracy": ("early_stop_test_right", "test"),
}
_SIZES = ("n_train", "n_valid", "n_test")


def outcomes(
    tickets: Mapping[int, Sequence[Row]], others: Mapping[int, Sequence[Row]], seeds: Sequence[int], column: str
) -> Outcomes | None:
    """Ticket minus other, for each of these seeds and each image of the split of `column`, shape (seeds, images).

    A diverged trial has each image right in part, 1 / number of classes; of several trials of a seed the mean counts.
    If each seed has a split of its own, the images are those that any of the splits may hold, and NaN where a seed's
    split does not. None if that is not known: of trials of an earlier version, of other columns than accuracies, or of
    a data set whose splits may or may not overlap; or if the trials of a pair were tested on different images.
    """
    rows = [row for seed in seeds for row in (*tickets[seed], *others[seed])]
    if column not in _RIGHT or not rows:
        return None
    bits, split = _RIGHT[column]
    known = [row for row in rows if row.get(bits) is not None]
    if not known or any(row["status"] == "done" for row in rows if row.get(bits) is None):
        return None
    if len({(row["data_digest"], row[f"n_{split}"]) for row in known}) > 1:
        return None
    n = known[0][f"n_{split}"]
    if len({split_of(row) for row in known}) == 1:
        sides = [_right(tickets[seed], column, bits, n) - _right(others[seed], column, bits, n) for seed in seeds]
        return np.stack(sides)
    found = np.full((0, 0), np.nan)
    for place, seed in enumerate(seeds):
        held = _held([*tickets[seed], *others[seed]], split)
        if held is None:
            return None
        found = found if found.size else np.full((len(seeds), held.n), np.nan)
        found[place, held.images] = _right(tickets[seed], column, bits, n) - _right(others[seed], column, bits, n)
    return found


def _held(rows: Sequence[Row], split: str) -> Held | None:
    """The images on which the trials of one pair were tested; None if they are not known, or not the same."""
    places = {(row["dataset"], split_of(row)) for row in rows}
    sizes = {tuple(row[name] for name in _SIZES) for row in rows if row[f"n_{split}"] is not None}
    if len(places) != 1 or len(sizes) != 1:
        return None
    [(dataset, seed)], [(train, valid, test)] = places, sizes
    return held_by(dataset, split, (train, valid, test), seed)


def _right(rows: Sequence[Row], column: str, bits: str, n: int) -> npt.NDArray[np.float64]:
    sides = [np.full(n, row[column]) if row.get(bits) is None else unpack(row[bits], n) for row in rows]
    return sides[0].astype(np.float64) if len(sides) == 1 else np.mean(sides, axis=0, dtype=np.float64)
