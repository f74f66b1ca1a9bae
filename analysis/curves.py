"""The numbers behind the figure: accuracy against weights remaining, as plain data. Pure; nothing is drawn here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.answer import headlines, setting
from analysis.frames import Frames, as_rows
from analysis.schema import Row
from analysis.stats import t_interval
from analysis.words import common_label, dense_label, short_labels


@dataclass(frozen=True, kw_only=True)
class Level:
    """Mean endpoint over seeds in per cent, with its two-sided 95 % t-interval; None below 2 seeds."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Point:
    """A group of tickets: weights remaining (per cent), its level, its primary verdict."""

    remaining_pct: float
    level: Level
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One ladder, the least sparse first."""

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Ladders that share their primary dense baseline. `others`: dense baselines of other budgets, by label."""

    title: str
    endpoint: str
    margin_pp: float
    dense: Level | None
    dense_label: str
    others: tuple[tuple[str, Level], ...]
    curves: tuple[Curve, ...]


def panels(frames: Frames) -> list[Panel]:
    """One panel per data set, model and primary dense baseline, in the order of the verdicts; none without tickets."""
    verdicts = headlines(as_rows(frames.verdicts))
    if not verdicts:
        return []
    levels = _levels(as_rows(frames.trials), verdicts[0]["endpoint"])
    settings: dict[str, list[Row]] = {}
    for row in verdicts:
        if row["primary"]:
            settings.setdefault(setting(row), []).append(row)
    return [_panel(primary, verdicts, levels) for primary in settings.values()]


def _panel(primary: Sequence[Row], verdicts: Sequence[Row], levels: Mapping[str, Level]) -> Panel:
    first = primary[0]
    groups, ladders = {row["group"] for row in primary}, {row["ladder"]: None for row in primary}
    others = {
        row["baseline_group"]: dense_label(row["baseline"])
        for row in verdicts
        if not row["primary"] and row["group"] in groups
    }
    return Panel(
        title=common_label(list(ladders)) if len(ladders) > 1 else setting(first),
        endpoint=first["endpoint"],
        margin_pp=first["margin_pp"],
        dense=levels.get(first["baseline_group"]),
        dense_label=dense_label(first["baseline"]) if others else "dense",
        others=tuple((label, levels[group]) for group, label in others.items() if group in levels),
        curves=tuple(_curves(primary, levels)),
    )


def _curves(primary: Sequence[Row], levels: Mapping[str, Level]) -> Iterable[Curve]:
    for ladder, label in short_labels([row["ladder"] for row in primary]).items():
        points = tuple(
            Point(remaining_pct=100 - row["sparsity_pct"], level=levels[row["group"]], verdict=row["verdict"])
            for row in primary
            if row["ladder"] == ladder and row["group"] in levels
        )
        if points:
            yield Curve(label=label, points=points)


def _levels(trials: Sequence[Row], endpoint: str) -> dict[str, Level]:
    """By group, of all its finished trials, paired or not: what a reader would compute from the trials table."""
    values: dict[str, list[float]] = {}
    for row in trials:
        if row["status"] == "done" and row[endpoint] is not None:
            values.setdefault(row["group"], []).append(100 * row[endpoint])
    return {group: _level(found) for group, found in values.items()}


def _level(values: Sequence[float]) -> Level:
    interval = t_interval(values)
    return Level(
        mean=sum(values) / len(values),
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        n=len(values),
    )
