"""Percent and signed numbers as people read them."""

from __future__ import annotations

import pytest

from analysis import text as text_of


@pytest.mark.parametrize(
    ("value", "text"), [(100, "100"), (36.0, "36"), (12.96, "13"), (9.96, "10"), (7.776, "7.8"), (0.536, "0.54")]
)
def test_per_cent_has_two_digits(value: float, text: str) -> None:
    assert text_of.percent(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.333, "+0.33"), (-1.5, "\u22121.50"), (-0.001, "0.00")])
def test_signed(value: float, text: str) -> None:
    assert text_of.signed(value) == text
