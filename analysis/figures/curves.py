"""The numbers behind the accuracy figure, as plain data. Pure functions; nothing is drawn here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.labels import common_label, control_label, control_name, dense_label, short_labels
from analysis.stats.paired import t_interval
from analysis.tables.parquet import Frames
from analysis.tables.schema import Row
from analysis.verdicts.answer import setting
from analysis.verdicts.headlines import headlines


@dataclass(frozen=True, kw_only=True)
class Level:
    """Mean over `n` seeds, usually in percent, and its two-sided 95 % t-interval (None with fewer than 2 seeds)."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Point:
    """One group of tickets: weights remaining (percent), mean endpoint, primary verdict."""

    remaining_pct: float
    level: Level
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Control:
    """One control of a ladder. points: weights remaining (percent) of the tickets, and the control's mean endpoint."""

    label: str
    points: tuple[tuple[float, Level], ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One ladder, from the least sparse ticket to the sparsest, and the controls branched off it."""

    label: str
    points: tuple[Point, ...]
    controls: tuple[Control, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A group with at least one finished ticket, and its weights remaining (percent, measured)."""

    group: str
    remaining_pct: float


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The finished rungs of one ladder, least sparse first, and the group of its primary dense baseline.

    is_trained: False for supermasks, which end with the weights that they were rewound to.
    """

    label: str
    is_trained: bool
    dense_group: str | None
    rungs: tuple[Rung, ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The ladders that share a primary dense baseline.

    others: dense baselines of other budgets, with labels; those with the same label and numbers are there once, such as
    the resets of tickets that differ in sparsity alone.
    """

    title: str
    endpoint: str
    margin_pp: float
    dense: Level | None
    dense_label: str
    others: tuple[tuple[str, Level], ...]
    curves: tuple[Curve, ...]


def panels(frames: Frames) -> list[Panel]:
    """One panel for each data set, model and primary dense baseline, in the order of the verdicts."""
    verdicts = headlines(frames.rows("verdicts"))
    if not verdicts:
        return []
    trials = frames.rows("trials")
    levels, controls = _levels(trials, verdicts[0]["endpoint"]), _controls(trials)
    settings: dict[str, list[Row]] = {}
    for row in verdicts:
        if row["primary"]:
            settings.setdefault(setting(row), []).append(row)
    return [_panel(primary, verdicts, levels, controls) for primary in settings.values()]


def ladders(frames: Frames) -> list[Ladder]:
    """The ladders of a run that have a finished ticket, in the order of the verdicts, labelled by what differs."""
    primary = [row for row in headlines(frames.rows("verdicts")) if row["primary"]]
    untrained, found = frames.once(supermask_ladders), []
    for ladder, label in ladder_labels(frames).items():
        rows = [row for row in _in_order(primary) if row["ladder"] == ladder and row["sparsity_pct"] is not None]
        rungs = tuple(Rung(group=row["group"], remaining_pct=100 - row["sparsity_pct"]) for row in rows)
        if rungs:
            dense = rows[0]["baseline_group"]
            found.append(Ladder(label=label, is_trained=ladder not in untrained, dense_group=dense, rungs=rungs))
    return found


def supermask_ladders(frames: Frames) -> set[str]:
    """The ladders of supermasks: networks that are not trained under their last mask."""
    return {row["ladder"] for row in frames.rows("trials") if row["reset_end"]}


def ladder_labels(frames: Frames) -> dict[str, str]:
    """Ladders with a primary comparison -> short labels."""
    return short_labels([row["ladder"] for row in headlines(frames.rows("verdicts")) if row["primary"]])


def _in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows from least sparse to sparsest: the verdicts list the tickets and the baselines of a ladder separately."""
    return sorted(rows, key=lambda row: float(row["target_sparsity_pct"]))


def _panel(
    primary: Sequence[Row],
    verdicts: Sequence[Row],
    levels: Mapping[str, Level],
    controls: Mapping[str, Mapping[str, str]],
) -> Panel:
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
        others=tuple(dict.fromkeys((label, levels[group]) for group, label in others.items() if group in levels)),
        curves=tuple(_curves(primary, levels, controls)),
    )


def _curves(
    primary: Sequence[Row], levels: Mapping[str, Level], controls: Mapping[str, Mapping[str, str]]
) -> Iterable[Curve]:
    for ladder, label in short_labels([row["ladder"] for row in primary]).items():
        rows = [row for row in _in_order(primary) if row["ladder"] == ladder and row["group"] in levels]
        points = tuple(
            Point(remaining_pct=100 - row["sparsity_pct"], level=levels[row["group"]], verdict=row["verdict"])
            for row in rows
        )
        if points:
            yield Curve(label=label, points=points, controls=tuple(_control_curves(rows, levels, controls)))


def _controls(trials: Sequence[Row]) -> dict[str, dict[str, str]]:
    """Group of tickets -> control -> group of the control's trials, by the parents named in the plan."""
    groups = {row["trial"]: row["group"] for row in trials}
    found: dict[str, dict[str, str]] = {}
    for row in trials:
        if row["role"] == "control" and row["parent"] in groups:
            found.setdefault(groups[row["parent"]], {})[control_name(row)] = row["group"]
    return found


def _control_curves(
    rows: Sequence[Row], levels: Mapping[str, Level], controls: Mapping[str, Mapping[str, str]]
) -> Iterable[Control]:
    """The controls of these tickets, each drawn at the weights remaining of the ticket it was branched off."""
    for name in dict.fromkeys(name for row in rows for name in controls.get(row["group"], {})):
        members = [(100 - row["sparsity_pct"], controls.get(row["group"], {}).get(name, "")) for row in rows]
        points = tuple((at, levels[group]) for at, group in members if group in levels)
        if points:
            yield Control(label=control_label(name), points=points)


def _levels(trials: Sequence[Row], endpoint: str) -> dict[str, Level]:
    """Mean endpoint of each group over all its finished trials, paired or not, as in the trials table."""
    values: dict[str, list[float]] = {}
    for row in trials:
        if row["status"] == "done" and row[endpoint] is not None:
            values.setdefault(row["group"], []).append(100 * row[endpoint])
    return {group: level_of(found) for group, found in values.items()}


def level_of(values: Sequence[float]) -> Level:
    """Mean and two-sided 95 % t-interval of the values, in their unit."""
    interval = t_interval(values)
    return Level(
        mean=sum(values) / len(values),
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        n=len(values),
    )
