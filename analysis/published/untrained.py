"""Published accuracies of untrained networks under masks, held against the table of `python -m analysis supermasks`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from analysis.published.estimates import Found
from analysis.published.points import Point
from analysis.stats.equivalence import Estimate, mean_of, scaled
from analysis.supermasks.summary import arms
from analysis.tables.roles import is_dense_network
from analysis.tables.schema import Row

_NAMED = ("dataset", "model", "found", "criterion")  # columns of supermasks.parquet that name a series


@dataclass(frozen=True, kw_only=True)
class Series:
    """Masks of one kind, over equally treated weights, of one network. rows: of all rounds."""

    name: str
    rows: tuple[Row, ...]

    @property
    def rounds(self) -> Mapping[int, Sequence[Row]]:
        found: dict[int, list[Row]] = defaultdict(list)
        for row in self.rows:
            found[row["round"]].append(row)
        return dict(sorted(found.items()))


def series_for(point: Point, supermasks: Iterable[Row]) -> list[Series]:
    """The series that a point speaks of, one for each network."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in supermasks:
        is_meant = row["dataset"] == point.data and point.network in (None, row["model"])
        if is_meant and row["weights"] == point.arm and all(row[name] == text for name, text in point.wanted.items()):
            found["-".join(row[name] for name in _NAMED)].append(row)
    return [Series(name=name, rows=tuple(rows)) for name, rows in found.items()]


def estimate_of(series: Series, trials: Iterable[Row], confidence: float) -> tuple[Found, float]:
    """The accuracy at the sparsity with the best validation accuracy, and the weights left there; both in percent."""
    (best,) = arms(series.rows)
    estimate = scaled(mean_of([row["test_accuracy"] for row in best.rows], confidence), 100.0)
    return Found(estimate=estimate, n=best.n, lacks=_lacks(series, best.rows, trials)), best.weights_left_pct


def curve_of(series: Series, confidence: float) -> tuple[tuple[float, Estimate], ...]:
    """Weights left and accuracy (both percent) at every round."""
    return tuple(
        (
            fmean(row["weights_left_pct"] for row in rows),
            scaled(mean_of([row["test_accuracy"] for row in rows], confidence), 100.0),
        )
        for rows in series.rounds.values()
    )


def _lacks(series: Series, measured: Sequence[Row], trials: Iterable[Row]) -> str | None:
    """Whether a seed of the run is not measured, in words."""
    network = {(row["dataset"], row["model"]) for row in series.rows}
    planned = {row["seed"] for row in trials if is_dense_network(row) and (row["dataset"], row["model"]) in network}
    missing = sorted(planned - {row["seed"] for row in measured})
    if not missing:
        return None
    return f"the run is not complete: no masks of seed {', '.join(map(str, missing))}; python -m analysis supermasks"
