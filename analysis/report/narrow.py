"""The verdicts for a terminal that is too narrow for their table: each ladder under a line of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.tables.schema import Row

GAP = 2  # columns between two
_AGAINST = {
    "dense": "", "dense_stretched": ", against stretched dense", "dense_restarts": ", against dense with restarts",
}  # fmt: skip


def narrow_table(
    title: str,
    rows: Sequence[Row],
    labels: Mapping[str, str],
    columns: Mapping[str, Sequence[str]],
    last: Sequence[Text],
) -> RenderableType:
    """rows: headlines. labels: of ladders. columns: heading -> cells, one a row; last: cells of the verdict, wrapped.

    All columns are as wide in each ladder, so that numbers stand below each other.
    """
    widths = {heading: max(map(len, [heading, *cells])) for heading, cells in columns.items()}
    parts: list[RenderableType] = [Text(title, style="bold")]
    before: tuple[str, str, str] | None = None
    for i, row in enumerate(rows):
        place = row["ladder"], row["kind"], row["role"]
        if place != before:
            role = "baseline " if row["role"] == "baseline" else ""
            against = _AGAINST.get(row["kind"], ", against other dense networks")
            parts += [Text(f"{role}{labels[row['ladder']]}{against}"), _table(widths, heading=before is None)]
        assert isinstance(parts[-1], Table)
        parts[-1].add_row(*(cells[i] for cells in columns.values()), last[i])
        before = place
    return Group(*parts)


def _table(widths: Mapping[str, int], heading: bool) -> Table:
    """The first one has the headings."""
    table = Table(box=None, padding=(0, GAP, 0, 0), show_header=heading, pad_edge=False)
    for name, width in widths.items():
        right = "right" if name in ("sparsity", "seeds") else "left"
        table.add_column(name, justify=right, width=width, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("verdict")
    return table
