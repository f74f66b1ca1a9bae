"""What is computed and said of lines between trained networks, from rows made by hand: numbers, words, figure."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.figure import Figure

from analysis.barriers.connections import connection_sentences, connections
from analysis.barriers.ends import DENSE as TO_DENSE
from analysis.barriers.ends import LEVELS
from analysis.barriers.networks import barrier_between
from analysis.figures.connections import dense_figure, levels_figure
from analysis.figures.style import to_svg
from analysis.report.connections import connection_tables
from lth_trainable.training.instability import alphas
from tests.support.svg import texts


def row(level: int, seed: int, ends: tuple[float, float], middle: float, between: str = LEVELS) -> list[dict[str, Any]]:
    """Rows of a line from one level to the next with these errors."""
    errors = [ends[0], middle, ends[1]]
    sparsities = [0.0, 20.0, 36.0, 48.8]
    return [
        {
            "trial": f"digits-net-imp-s48.8-r0-seed{seed}", "group": "digits-net-imp-s48.8-r0", "margin_pp": 1.0,
            "ladder": "digits-net-imp-r0", "seed": seed, "between": between, "level_a": level - 1, "level_b": level,
            "sparsity_a_pct": sparsities[level - 1], "sparsity_b_pct": sparsities[level],
            "state_a": f"{level - 1}{seed}", "state_b": f"{level}{seed}",
            "part": part, "batch_norm": kind, "n_points": 3, "alphas": list(alphas(3)),
            "errors_pct": errors, "device": "cpu", **barrier_between(errors, alphas(3)),
        }
        for part in ("train", "test") for kind in ("raw", "recomputed")
    ]  # fmt: skip


ROWS = [
    *row(1, 0, (4.0, 4.2), 4.0), *row(1, 1, (5.0, 5.0), 6.0),  # connected and matching
    *row(2, 0, (4.2, 7.0), 12.0), *row(2, 1, (5.0, 8.0), 12.0),  # neither
    *row(3, 0, (7.0, 7.0), 7.0), *row(3, 1, (8.0, 8.0), 8.0),  # connected, though it does not match
]  # fmt: skip


def test_table_sentence_and_figure_say_where_the_rule_of_the_paper_holds() -> None:
    (table,) = connection_tables(ROWS)
    columns = {c.header: list(c.cells) for c in table.columns}
    assert columns["line"] == ["dense – 20 %", "20 – 36 %", "36 – 48.8 %"]
    assert columns["test"] == ["0.50 (1.00)", "5.95 (6.40)", "0.00 (0.00)"]
    assert columns["above\ndense"] == ["+0.10", "+3.00", "+3.00"]
    assert columns["connected"] == ["yes", "no", "yes"]
    assert columns["matches"] == ["yes", "no", "no"]
    assert columns["rule"] == ["yes", "yes", "no"]
    first, explained = connection_sentences(ROWS)
    assert "connected are dense – 20 %, 36 – 48.8 %; not connected are 20 – 36 %" in first
    assert "holds for 2 of 3 pairs; not for 36 – 48.8 % (connected, not both match)" in first
    assert "at most 1 pp above the dense one, over 2 seeds" in explained
    figure = levels_figure(ROWS)
    assert figure is not None
    words = texts(to_svg(figure))
    for text in ("imp, rewind epoch 0, test: rule holds 2 of 3", "dense", "48.8", "does not match"):
        assert any(text.lower() in word.lower() for word in words), text
    assert any("not connected" in word for word in words)


def test_the_line_to_the_dense_network_is_held_to_no_rule() -> None:
    rows = row(1, 0, (4.0, 8.0), 12.0, TO_DENSE)
    (table,) = connection_tables(rows)
    assert "rule" not in [column.header for column in table.columns]
    assert "does not say that the ticket fails" in connection_sentences(rows)[-1]
    assert levels_figure(rows) is None
    assert dense_figure(rows) is not None


def test_of_several_numbers_of_points_the_finest_counts() -> None:
    coarse = row(1, 0, (4.0, 4.0), 4.0)
    fine = [{**r, "n_points": 30, "barrier_pp": 5.0} for r in coarse]
    (pair,) = connections([*coarse, *fine], LEVELS)
    assert pair.barriers("test", "raw") == [5.0]
    assert pair.n_seeds == 1


def test_each_order_seed_has_a_dense_network_of_its_own() -> None:
    def with_order(order: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        states = {end: f"{rows[0][end]}-{order}" for end in ("state_a", "state_b")}
        return [{**r, **states, "trial": f"{r['trial']}-order{order}"} for r in rows]

    rows = [
        *with_order(1, row(1, 0, (4.0, 4.2), 4.0)), *with_order(2, row(1, 0, (9.0, 9.2), 9.0)),
        *row(1, 1, (5.0, 5.2), 5.0),
    ]  # fmt: skip
    (pair,) = connections(rows, LEVELS)
    assert pair.above_b == pytest.approx((0.2, 0.2, 0.2))
    assert "over 3 lines of 2 seeds" in connection_sentences(rows)[-1]
    (table,) = connection_tables(rows)
    columns = {c.header: list(c.cells) for c in table.columns}
    assert (columns["seeds"], columns["lines"]) == (["2"], ["3"])


def test_only_networks_known_to_match_or_not_have_a_mark() -> None:
    known = levels_figure(ROWS)
    unknown = levels_figure([r for r in ROWS if r["level_a"] > 0])  # the lines from the dense network are not stored
    assert known is not None
    assert unknown is not None

    def marks(figure: Figure) -> int:
        return sum(line.get_marker() == "o" for axis in figure.axes for line in axis.get_lines())

    assert (marks(known), marks(unknown)) == (2 * 3 * 2, 0)


def test_a_barrier_between_unequal_networks_is_above_the_line_between_their_errors() -> None:
    found = barrier_between([2.0, 4.0, 9.0, 8.0], alphas(4))
    assert found["barrier_pp"] == pytest.approx(9 - 6)
    assert found["at_max"] == pytest.approx(2 / 3)
    assert barrier_between([0.0, 5.0, 10.0], alphas(3))["barrier_pp"] == 0, "a steady rise is no barrier"
    assert barrier_between([5.0, 1.0, 5.0], alphas(3))["barrier_pp"] == 0
