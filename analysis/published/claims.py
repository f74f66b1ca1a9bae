"""A claim: a published figure with the margin within which a run agrees with it.

A recipe names its claims and their margins (`Sweep.published`). The sweep's command writes both into `plan.json` before
the first trial, so neither can be chosen after a result has been seen, and a later correction of a published figure
does not change what a run was held against.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from analysis.published.points import COLUMNS, LESS_THAN, MORE_THAN, RANGE, SD, Point, point_named, point_of
from lth_trainable.errors import UserError, bad_value, is_finite_number

MARGIN = "margin"  # beside the columns of a point, in plan.json


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A published point and the margin, a positive number in the unit `point.margin_unit`."""

    point: Point
    margin: float

    @property
    def bounds(self) -> tuple[float, float]:
        """The differences, here minus published, that agree: from the first to the second."""
        relation = self.point.relation
        return -math.inf if relation == LESS_THAN else -self.margin, math.inf if relation == MORE_THAN else self.margin

    @property
    def constant_because(self) -> str | None:
        """Why the published value counts as a constant; None if its variance is known."""
        point = self.point
        if point.spread is None:
            return "published without a spread"
        if point.spread_kind == RANGE:
            return "published with its range only"
        if point.spread_kind == SD and point.n is None:
            return "published without a number of trials"
        return "published for one trial" if point.n == 1 else None

    def as_json(self) -> dict[str, Any]:
        """For plan.json."""
        return {**asdict(self.point), MARGIN: self.margin}


def claims_of(where: str, margins: Mapping[str, float]) -> tuple[Claim, ...]:
    """The claims of these names with their margins. Raises `UserError` for an unknown name or a wrong margin."""
    return tuple(
        Claim(point=point_named(where, name), margin=_margin(f"{where}, {name}", margin))
        for name, margin in margins.items()
    )


def read_claims(where: str, entries: Iterable[Any]) -> tuple[Claim, ...]:
    """The claims as plan.json has them. Raises `UserError` for anything else."""
    found: dict[str, Claim] = {}
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise bad_value(where, entry, f"an object with {', '.join(COLUMNS)} and {MARGIN}")
        point = point_of(where, {name: value for name, value in entry.items() if name != MARGIN})
        found[point.claim] = Claim(point=point, margin=_margin(f"{where}, {point.claim}", entry.get(MARGIN)))
    return tuple(found.values())


def check_same_claims(where: str, fixed: Iterable[Mapping[str, Any]], now: Iterable[Mapping[str, Any]]) -> None:
    """Raise `UserError` unless both have the same claims, as plan.json has them."""
    differ = difference_of_claims(fixed, now)
    if differ is not None:
        raise UserError(f"{where}: {differ}, as it was fixed before the first trial; choose another --name")


def difference_of_claims(fixed: Iterable[Mapping[str, Any]], now: Iterable[Mapping[str, Any]]) -> str | None:
    """In what these claims differ, as "NAME: found ...; expected ..."; None if they are the same.

    How a claim is worded, and how its figure was read, may differ.
    """
    before, after = ({entry["claim"]: entry for entry in entries} for entries in (fixed, now))
    if before.keys() != after.keys():
        found, expected = (", ".join(names) or "none" for names in (after, before))
        return f"found the claims {found}; expected {expected}"
    for name, entry in before.items():
        for field in (*COLUMNS, MARGIN):
            if field not in _WORDING and entry[field] != after[name][field]:
                return f"{name}: found {field} {after[name][field]!r}; expected {entry[field]!r}"
    return None


_WORDING = ("sentence", "place", "how_read")


def _margin(where: str, value: Any) -> float:
    if not is_finite_number(value) or value <= 0:
        raise bad_value(where, value, "a margin: a number of more than 0, in the unit of the claim")
    return float(value)
