"""Lines between trained networks for the terminal: their barriers, and what the paper's rule says of each."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich.table import Table

from analysis.barriers.connections import Connection, by_ladder, connections
from analysis.barriers.ends import DENSE, LEVELS, Between
from analysis.barriers.networks import RAW, RECOMPUTED
from analysis.labels import common_label, short_labels
from analysis.tables.schema import Row

TITLES = {LEVELS: "barrier between the ends of consecutive levels", DENSE: "barrier between dense network and ticket"}
_WORDS = {True: "yes", False: "no", None: "–"}


def connection_tables(rows: Sequence[Row]) -> list[Table]:
    """A table for each kind of pairs and each ladder: mean barrier over its lines, the largest in parentheses, pp.

    lines: their number, where it is not that of seeds. above dense: mean test error of the second network minus that of
    the dense one, pp.
    """
    tables = []
    for between in (LEVELS, DENSE):
        ladders = by_ladder(connections(rows, between))
        labels = short_labels(list(ladders))
        for ladder, found in ladders.items():
            names = [common_label(list(ladders)), *([labels[ladder]] if len(ladders) > 1 else [])]
            tables.append(_table(f"{', '.join(names)}: {TITLES[between]}, pp, mean (largest)", between, found))
    return tables


def _table(title: str, between: Between, found: Sequence[Connection]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    columns = _columns(found)
    judged = ["connected", "matches", *(["rule"] if between == LEVELS else [])]
    counts = ["seeds", *(["lines"] if any(pair.n_lines != pair.n_seeds for pair in found) else [])]
    for heading in ("line", *counts, *columns.values(), "above\ndense", *judged):
        table.add_column(heading, justify="right" if heading in (*counts, "above\ndense") else "left", no_wrap=True)
    for connection in found:
        barriers = [_mean(connection.barriers(*key)) for key in columns]
        words = [_WORDS[connection.is_connected], _WORDS[connection.matches]]
        words += [_WORDS[connection.follows_rule]] if between == LEVELS else []
        above = _mean(connection.above_b, signed=True)
        numbers = [str(n) for n in (connection.n_seeds, connection.n_lines)[: len(counts)]]
        table.add_row(connection.label, *numbers, *barriers, above, *words)
    return table


def _columns(found: Sequence[Connection]) -> dict[tuple[str, str], str]:
    if found[0].kind == RECOMPUTED:
        return {(split, kind): f"{split}\n{kind}" for split in ("test", "train") for kind in (RAW, RECOMPUTED)}
    return {(split, RAW): split for split in ("test", "train")}


def _mean(values: Sequence[float], signed: bool = False) -> str:
    if not values:
        return "–"
    if signed:
        return f"{fmean(values):+.2f}".replace("-", "−")
    return f"{fmean(values):.2f}" + (f" ({max(values):.2f})" if len(values) > 1 else "")
