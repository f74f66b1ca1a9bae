"""Blocks of rows that share a key."""

from __future__ import annotations

import pyarrow as pa

from analysis.tables.parquet import Frames
from analysis.tables.spans import last_levels

LEVELS = pa.table(
    {
        "trial": ["a", "a", "b", "c", "a", "c"], "level": [0, 2, 0, 3, 2, 1], "x": [1, 2, 3, 4, 5, 6],
    }
)  # fmt: skip


def test_the_last_level_of_each_trial_is_found_wherever_its_rows_are() -> None:
    assert last_levels(LEVELS, ["a", "b", "c", "d"])["x"].to_pylist() == [2, 3, 4, 5]
    assert last_levels(LEVELS, ["c"])["x"].to_pylist() == [4]
    assert last_levels(LEVELS, []).num_rows == 0
    assert last_levels(LEVELS.slice(0, 0), ["a"]).num_rows == 0


def test_what_a_function_makes_of_tables_is_made_once() -> None:
    calls = []

    def count(frames: Frames) -> int:
        calls.append(frames)
        return frames.tables["levels"].num_rows

    frames = Frames(tables={"levels": LEVELS})
    assert [frames.once(count), frames.once(count)] == [6, 6] and len(calls) == 1
    assert Frames(tables={"levels": LEVELS.slice(1)}).once(count) == 5
