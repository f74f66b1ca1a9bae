"""The table of variances for the report: initialisation against data order."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.labels import short_labels
from analysis.tables.schema import Row

PARTS = ("init", "order", "both")


def variance_view(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Cells in words, a dict for each row of variances.parquet: standard deviations with their shares."""
    labels = short_labels([row["group"] for row in rows])
    return [
        {
            "trials": labels[row["group"]], "of": row["of"], "size": f"{row['n_init']} × {row['n_order']}",
            "mean": f"{row['mean_pp']:.2f}", **{part: _cell(row, part) for part in PARTS},
        }
        for row in rows
    ]  # fmt: skip


def _cell(row: Row, part: str) -> str:
    share = row[f"share_{part}"]
    return f"{row[f'sd_{part}_pp']:.2f}" + ("" if share is None else f" ({100 * share:.0f} %)")
