"""The published figures: `results/published/*.csv`, one file for each paper, one row for each figure.

`docs/results.md` says what the columns mean. The folder `papers` beside this module is a link to these files, so that
an installed package has them too.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

from analysis.tables.schema import SPEC_FIELDS
from lth_trainable.errors import UserError, bad_value, is_finite_number, unknown_name

EQUALS, MORE_THAN, LESS_THAN = RELATIONS = ("equals", "more_than", "less_than")  # what a published value says
WHERE = "results/published"  # in messages
ACCURACY, DIFFERENCE, CHANGE, RATIO, FALLS_BELOW, SUPERMASK = (
    "accuracy", "accuracy_difference", "early_stop_change", "early_stop_ratio", "falls_below", "supermask_accuracy",
)  # fmt: skip
UNITS = {
    ACCURACY: "%", DIFFERENCE: "pp", CHANGE: "%", RATIO: "times", FALLS_BELOW: "% left", SUPERMASK: "%",
}  # of values # fmt: skip
MARGIN_UNITS = {
    ACCURACY: "pp", DIFFERENCE: "pp", CHANGE: "pp", RATIO: "times", FALLS_BELOW: "rounds", SUPERMASK: "pp",
}  # fmt: skip
ALONE = (ACCURACY, SUPERMASK)  # compared with nothing
OF_SUPERMASKS = ("criterion", "found")  # columns of supermasks.parquet that `fields` may name for a supermask
OF_ITERATIONS = (CHANGE, RATIO)  # quantities of the early stop, not of an accuracy there
AT_END, AT_EARLY_STOP = MOMENTS = ("end", "early_stop")
SD, SE, CI95, RANGE = SPREADS = ("sd", "se", "ci95", "range")  # ci95: half its width
IMAGES = (SAME_IMAGES, OTHER_IMAGES) = ("same", "other")  # of the test: as in the paper, or others of their kind
_NUMBERS = ("weights_left_pct", "value", "spread")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A published figure and the quantity of a run that it is held against. Its fields are the columns of the files.

    claim: its name, one of a kind. place: figure, table or section. arm, against: "ticket", "dense", or the name of a
    control or baseline; of a supermask "initial" or "signed_constants". quantity: a key of `UNITS`. at: the moment
    whose accuracy counts, one of `MOMENTS`; None for a quantity of the early stop itself. network, data: names of this
    project; network None: any. images: whether this project tests on the paper's test images, one of `IMAGES`. fields:
    values of spec fields that the tickets have, as "name=value name=value". weights_left_pct: None if the paper does
    not say.
    """

    claim: str
    paper: str
    place: str
    sentence: str
    arm: str
    against: str | None
    quantity: str
    at: str | None
    network: str | None
    data: str
    images: str
    fields: str
    weights_left_pct: float | None
    relation: str
    value: float
    unit: str
    spread: float | None
    spread_kind: str | None
    n: int | None
    how_read: str

    @property
    def margin_unit(self) -> str:
        return MARGIN_UNITS[self.quantity]

    @property
    def is_of_dense(self) -> bool:
        """Whether the arm is a dense network: "dense", or "dense-e5" for one of 5 epochs. It has no level."""
        return self.arm.partition("-")[0] == "dense"

    @property
    def wanted(self) -> dict[str, str]:
        """Values of spec fields that the tickets must have, as text."""
        return dict(pair.split("=", 1) for pair in self.fields.split())


COLUMNS = tuple(field.name for field in fields(Point))
_OPTIONAL = ("against", "at", "network", "weights_left_pct", "spread", "spread_kind", "n")


def point_of(where: str, row: Mapping[str, Any]) -> Point:
    """The point with these values, as text or as JSON has them. Raises `UserError` with the place of a mistake."""
    if set(row) != set(COLUMNS):
        odd = sorted({str(name) for name in set(row) ^ set(COLUMNS)})
        raise bad_value(where, odd, f"the columns {', '.join(COLUMNS)}")
    values = {name: _value(f"{where}, {name}", name, row[name]) for name in COLUMNS}
    point = Point(**values)
    _check(where, point)
    return point


@functools.cache
def points() -> Mapping[str, Point]:
    """All published points by the names of their claims. Raises `UserError` for a mistake in a file."""
    found: dict[str, Point] = {}
    for where, row in _rows():
        point = point_of(where, row)
        if point.claim in found:
            raise bad_value(f"{where}, claim", point.claim, "a name that no other row has")
        found[point.claim] = point
    return found


def point_named(where: str, claim: str) -> Point:
    """The point of a claim. Raises `UserError` for a name that no file has."""
    known = points()
    if claim not in known:
        raise unknown_name(where, claim, known)
    return known[claim]


def _rows() -> Iterator[tuple[str, dict[str, str]]]:
    """Every row of every file with its place, such as "results/published/1803.03635.csv, line 2"."""
    folder = files("analysis.published").joinpath("papers")
    papers = [file for file in folder.iterdir() if file.name.endswith(".csv")] if folder.is_dir() else []
    if not papers:
        raise UserError(f"{WHERE}: found no files; expected one for each paper; restore the folder of the project")
    for file in sorted(papers, key=lambda file: file.name):
        reader = csv.DictReader(file.read_text(encoding="utf-8").splitlines(), restkey="more", restval="")
        for row in reader:
            yield f"{WHERE}/{file.name}, line {reader.line_num}", row


def _value(where: str, name: str, value: Any) -> Any:
    """A value of a column with its type; None for an empty one that may be empty."""
    if value in ("", None):
        if name in _OPTIONAL:
            return None
        if name == "fields" and value == "":
            return value
        raise bad_value(where, value, "a value")
    if name == "n":
        if str(value).isdecimal() and int(value) > 0:
            return int(value)
        raise bad_value(where, value, "a whole number of trials")
    if name in _NUMBERS:
        number = _number(value)
        if not is_finite_number(number):
            raise bad_value(where, value, "a number")
        return number
    if not isinstance(value, str):
        raise bad_value(where, value, "text")
    return value


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return None


def _check(where: str, point: Point) -> None:
    choices = {"quantity": UNITS, "relation": RELATIONS, "images": IMAGES}
    for name, valid in choices.items():
        if getattr(point, name) not in valid:
            raise unknown_name(f"{where}, {name}", getattr(point, name), valid)
    if not re.fullmatch(r"[a-z0-9_.]+", point.claim):
        raise bad_value(f"{where}, claim", point.claim, "small letters, digits, _ and .")
    if point.unit != UNITS[point.quantity]:
        raise bad_value(f"{where}, unit", point.unit, f"{UNITS[point.quantity]}, the unit of {point.quantity}")
    moments = (None,) if point.quantity in OF_ITERATIONS else MOMENTS
    if point.at not in moments:
        raise bad_value(f"{where}, at", point.at, f"one of {', '.join(map(str, moments))} for {point.quantity}")
    if (point.against is None) != (point.quantity in ALONE):
        expected = "none" if point.quantity in ALONE else "what the arm is compared with, such as dense"
        raise bad_value(f"{where}, against", point.against, expected)
    if point.quantity == FALLS_BELOW and (point.relation != EQUALS or not 0 < point.value <= 100):
        raise bad_value(f"{where}, value", point.value, f"weights left, percent, with the relation {EQUALS}")
    if point.weights_left_pct is None and point.quantity not in (*ALONE, FALLS_BELOW):
        raise bad_value(f"{where}, weights_left_pct", None, f"the weights left, percent, for {point.quantity}")
    if point.weights_left_pct is not None and not 0 < point.weights_left_pct <= 100:
        raise bad_value(f"{where}, weights_left_pct", point.weights_left_pct, "percent, more than 0 and at most 100")
    if (point.spread is None) != (point.spread_kind is None) or point.spread_kind not in (None, *SPREADS):
        expected = f"one of {', '.join(SPREADS)} beside a spread, and none without"
        raise bad_value(f"{where}, spread_kind", point.spread_kind, expected)
    if point.spread is not None and point.spread < 0:
        raise bad_value(f"{where}, spread", point.spread, "a number of at least 0")
    if point.quantity == SUPERMASK and point.weights_left_pct is not None:
        expected = "none for a supermask: the best sparsity is chosen on validation images"
        raise bad_value(f"{where}, weights_left_pct", point.weights_left_pct, expected)
    _check_fields(f"{where}, fields", point.fields, OF_SUPERMASKS if point.quantity == SUPERMASK else SPEC_FIELDS)


def _check_fields(where: str, text: str, valid: Collection[str]) -> None:
    for pair in text.split():
        name, sign, _ = pair.partition("=")
        if not sign:
            raise bad_value(where, pair, "name=value")
        if name not in valid:
            raise unknown_name(where, name, valid)
