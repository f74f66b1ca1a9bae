"""The suggestion of a front that is confirmed on other seeds: the knee, if the front has one."""

from __future__ import annotations

import pytest

from sweeps.cli.confirm import knee
from sweeps.search.searches import find_search

SEARCH = find_search("digits_search")


def row(sparsity: float, accuracy: float) -> dict[str, float]:
    return {"sparsity_pct": sparsity, "objective_accuracy": accuracy, "epochs_alone": 10}


@pytest.mark.parametrize(
    ("front", "chosen", "bends"),
    [
        ([(50, 0.95), (87.5, 0.94), (96.875, 0.80)], 87.5, True),  # accuracy is lost beyond it
        ([(50, 0.95), (75, 0.94), (87.5, 0.90), (96.875, 0.80)], 75, True),  # sums 1, 1.18, 1.17 and 1
        ([(50, 0.95), (87.5, 0.82), (96.875, 0.80)], 50, False),  # below the line between the ends
        ([(50, 0.95), (75, 0.90), (87.5, 0.85)], 50, False),  # on the line: equal steps of accuracy and log density
        ([(50, 0.95), (87.5, 0.94)], 50, False),
        ([(64, 0.9)], 64, False),
    ],
)
def test_the_knee_lies_beyond_the_line_between_the_ends(
    front: list[tuple[float, float]], chosen: float, bends: bool
) -> None:
    found, has_knee = knee([row(*point) for point in front], SEARCH)
    assert (found["sparsity_pct"], has_knee) == (chosen, bends)
