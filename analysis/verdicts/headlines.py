"""The headline of a comparison with a dense network: one word for what "matches" and "beats" say together. Pure.

A ticket can be within the margin and yet be shown to be lower than dense. The headline says both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.tables.schema import BEATS, FALLS_SHORT, LOWER, MATCHES, UNDECIDED, Row
from analysis.verdicts.groups import TICKET

KEEPING_UP = (BEATS, MATCHES, LOWER)  # shown to be at most the margin below dense


def headlines(verdicts: Sequence[Row]) -> list[Row]:
    """One row for each group and dense baseline: its row of "matches", with the headline in place of the verdict.

    "beats": above dense. "matches": at most the margin below, and not shown to be lower. "within the margin, lower": at
    most the margin below, and below. "falls short": more than the margin below. "undecided": none of these. The column
    `shown_lower` is true if the group is shown to be below dense, whatever the headline. That is a caution and no
    claim for the tickets, so it is shown without a correction for other comparisons: the interval lies below zero. Rows
    keep their order.
    """
    beating = _beating(verdicts)
    return [_headline(row, beating[_pair(row)]) for row in verdicts if row["claim"] == "matches"]


def of_tickets(verdicts: Sequence[Row]) -> list[Row]:
    """The headlines that answer the question of the run: primary comparisons of tickets, not of baselines."""
    return [row for row in headlines(verdicts) if row["primary"] and row["role"] == TICKET]


def with_headlines(verdicts: Iterable[Row]) -> list[Row]:
    """The rows with the columns `headline` and `shown_lower`, in rows of "matches" and of "beats" a dense network."""
    rows = list(verdicts)
    beating = _beating(rows)
    found = {
        _pair(row): {"headline": _word(row, beating[_pair(row)]), "shown_lower": _is_lower(beating[_pair(row)])}
        for row in rows
        if row["claim"] == "matches"
    }
    return [{**row, **found.get(_pair(row), {})} if row["claim"] in ("matches", "beats") else row for row in rows]


def _pair(row: Row) -> tuple[str, str]:
    return row["group"], row["baseline"]


def _beating(verdicts: Iterable[Row]) -> dict[tuple[str, str], Row]:
    return {_pair(row): row for row in verdicts if row["claim"] == "beats"}


def _is_lower(beating: Row) -> bool:
    """Whether the tickets are below dense by this comparison alone; at interim looks only if that holds after them."""
    if beating["verdict"] == "no":
        return True
    tested = beating["p_against_decisive"] is not None and beating["look"] is None
    return tested and bool(beating["p_against"] <= beating["alpha"])


def _word(matching: Row, beating: Row) -> str:
    if beating["verdict"] == "yes":
        return BEATS
    if matching["verdict"] == "yes":
        return LOWER if _is_lower(beating) else MATCHES
    return FALLS_SHORT if matching["verdict"] == "no" else UNDECIDED


def _headline(matching: Row, beating: Row) -> Row:
    word, lower = _word(matching, beating), _is_lower(beating)
    why = {
        BEATS: beating["why"],
        LOWER: f"{matching['why']}, and lower (95 % interval below 0)",
        UNDECIDED: f"shown lower; {matching['why']}" if lower else matching["why"],
    }
    end = (beating if word == BEATS else matching).get(f"decisive_{'high' if word == FALLS_SHORT else 'low'}")
    return {
        **matching, "verdict": word, "shown_lower": lower, "why": why.get(word, matching["why"]), "decisive_end": end,
    }  # fmt: skip
