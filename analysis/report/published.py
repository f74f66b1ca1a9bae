"""What papers have published and what the run says of it: cells in words, for the terminal and the HTML report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from analysis.published.points import DIFFERENCE, EQUALS, MORE_THAN, OTHER_IMAGES
from analysis.tables.published_schema import ABSENT, FAILS, HOLDS, OPEN
from analysis.tables.schema import Row
from analysis.text import plural, print_line, signed

NOTHING = "–"
KINDS = {HOLDS: "yes", FAILS: "no", OPEN: "undecided", ABSENT: "undecided"}  # which colour of the report
STYLES = {HOLDS: "green", FAILS: "red", OPEN: "yellow", ABSENT: "dim"}
_HEADINGS = ("claim", "left", "published", "here", "difference", "n", "result")  # columns of the terminal


def published_cells(row: Row) -> dict[str, str]:
    """The cells of a row of published.parquet. kind: of its result, which colours it."""
    unit, margin_unit = row["unit"].removesuffix(" left"), row["margin_unit"]
    bound = "" if row["relation"] == EQUALS else "> " if row["relation"] == MORE_THAN else "< "
    return {
        "claim": row["claim"], "sentence": row["sentence"], "source": _source(row), "how_read": row["how_read"],
        "left": _left(row), "published": f"{bound}{_number(row['published'])} {unit}",
        "here": NOTHING if row["here"] is None else f"{_measured(row['here'])} {unit}",
        "difference": _difference(row), "margin": f"{row['margin']:g} {margin_unit}" if row["margin"] else NOTHING,
        "n": NOTHING if row["n"] is None else str(row["n"]), "result": row["result"], "kind": KINDS[row["result"]],
        "why": row["why"],
    }  # fmt: skip


def said(rows: Sequence[Row]) -> str:
    """The results in one sentence: "held against 7 published figures: 4 agree, 1 disagrees, 2 undecided"."""
    counts = Counter(row["result"] for row in rows)
    words = {
        HOLDS: "agrees" if counts[HOLDS] == 1 else "agree", FAILS: "disagrees" if counts[FAILS] == 1 else "disagree",
        OPEN: OPEN, ABSENT: ABSENT,
    }  # fmt: skip
    parts = ", ".join(f"{counts[result]} {word}" for result, word in words.items() if counts[result])
    return f"held against {plural(len(rows), 'published figure')}: {parts}"


def how_it_was_held(rows: Sequence[Row]) -> str:
    """What the intervals are, and which published figures count as constants, in one or two sentences."""
    held = [row for row in rows if row["result"] != ABSENT]
    constants = sum(row["is_constant"] for row in held)
    first = (
        f"Differences are here minus published, with {100 * rows[0]['confidence']:g} % intervals over seeds, on the "
        f"test images of this run{_over_images(held)}; no correction for the number of claims."
    )
    if not constants:
        return first
    which = "All published figures" if constants == len(held) else f"{constants} of the published figures"
    return f"{first} {which} count as constants, because their spread or number of trials is not known."


def _over_images(held: Sequence[Row]) -> str:
    """What else is said of the intervals if a paper was measured on other images."""
    other = any(row["images"] == OTHER_IMAGES and row["quantity"] == DIFFERENCE for row in held)
    return " (of differences that were published for other images: over seeds and images)" if other else ""


def show_published(to: Console, rows: Sequence[Row]) -> None:
    """Print the table, and below it the reason for each result."""
    held = [row for row in rows if row["result"] != ABSENT]
    if held:
        to.print(_table(held))
    for row in rows:
        cells = published_cells(row)
        if row["result"] == ABSENT:
            print_line(to, f"{ABSENT}: {cells['claim']} ({cells['sentence']}): {cells['why']}", style="dim")
        else:
            print_line(to, f"{cells['result']}: {cells['claim']} ({cells['sentence']}): {cells['why']}")


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    several = len({row["ladder"] for row in rows}) > 1
    for heading in _HEADINGS:
        justify = "left" if heading in ("claim", "result", "difference") else "right"
        table.add_column(f"{heading}, %" if heading == "left" else heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    if several:
        table.add_column("ladder", overflow="fold")
    for row in rows:
        cells = published_cells(row)
        table.add_row(
            *(cells[name] for name in _HEADINGS), *([row["ladder"]] if several else []), style=STYLES[row["result"]]
        )
    return table


def _source(row: Row) -> str:
    paper = row["paper"]
    return f"{f'arXiv {paper}' if paper[:1].isdigit() else paper}, {row['place']}".replace(". ", ".\u00a0")


def _left(row: Row) -> str:
    """Weights left: published, then here if it is another number."""
    published, here = (
        NOTHING if row[name] is None else f"{row[name]:.1f}" for name in ("weights_left_pct", "weights_left_here_pct")
    )
    return published if here in (published, NOTHING) else f"{published} / {here}"


def _difference(row: Row) -> str:
    if row["difference"] is None and row["ci_low"] is None and row["ci_high"] is None:
        return NOTHING
    mean = NOTHING if row["difference"] is None else signed(row["difference"])
    if row["ci_low"] is None and row["ci_high"] is None:
        return f"{mean} {row['margin_unit']}"
    low, high = ("open" if row[end] is None else signed(row[end]) for end in ("ci_low", "ci_high"))
    return f"{mean} [{low}, {high}] {row['margin_unit']}"


def _measured(value: float) -> str:
    """A figure of this run: with two decimals, however it happens to end."""
    return f"{value:.2f}".replace("-", "\u2212")


def _number(value: float) -> str:
    """Up to two decimals, with a real minus sign."""
    return f"{value:.2f}".rstrip("0").rstrip(".").replace("-", "\u2212")
