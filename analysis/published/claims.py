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

from analysis.published.points import COLUMNS, EQUALS, LESS_THAN, MORE_THAN, RANGE, SD, Point, point_named, point_of
from lth_trainable.errors import UserError, bad_value, is_finite_number

MARGIN = "margin"  # beside the columns of a point, in plan.json


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A published point and the margin, in the unit `point.margin_unit`: positive, or 0 for a published bound.

    A bound ("more than 0.3 pp") has no margin: a run agrees with it only where the bound itself is shown.
    """

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
    return tuple(_claim(where, name, margin) for name, margin in margins.items())


def _claim(where: str, name: str, margin: Any) -> Claim:
    point, place = point_named(where, name), f"{where}, {name}"
    if point.relation == EQUALS:
        return Claim(point=point, margin=_margin(place, margin))
    if not is_finite_number(margin) or margin != 0:
        bound = f"{point.relation.replace('_', ' ')} {point.value:g} {point.unit}"
        raise bad_value(place, margin, f"0: {bound} is a bound, and holds only where the bound itself is shown")
    return Claim(point=point, margin=0.0)


def read_claims(where: str, entries: Iterable[Any]) -> tuple[Claim, ...]:
    """The claims as plan.json has them. Raises `UserError` for anything else."""
    found: dict[str, Claim] = {}
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise bad_value(where, entry, f"an object with {', '.join(COLUMNS)} and {MARGIN}")
        point = point_of(where, {name: value for name, value in entry.items() if name != MARGIN})
        margin = entry.get(MARGIN)
        if point.relation == EQUALS or margin != 0:  # plans of older versions may have a margin for a bound
            margin = _margin(f"{where}, {point.claim}", margin)
        found[point.claim] = Claim(point=point, margin=float(margin))
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
