"""The verdicts for the terminal: a table of at most 100 columns, the answer, the paths of the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.labels import claim_label, common_label, dense_label, short_labels
from analysis.tables.geometry import left_out
from analysis.tables.parquet import OPTIONAL, Frames, as_rows
from analysis.tables.schema import STATUSES, TABLES, Row
from analysis.text import PLAIN_WIDTH, human_bytes, print_line, signed
from analysis.verdicts.answer import answer_sentence, headlines
from analysis.verdicts.baselines import DENSE_KINDS
from analysis.verdicts.groups import TICKET
from analysis.verdicts.rows import LADDER_CLAIM

WIDTH, LEAST_VERDICT, GAP = PLAIN_WIDTH, 18, 2  # characters: whole table, column "verdict", between columns
BASELINES = "baselines"  # their heading in the table
STYLES = {
    "beats dense": "bold green", "matches dense": "green", "falls short": "red", "undecided": "yellow",
    "yes": "green", "no": "red",
}  # fmt: skip
_AGAINST = {
    "dense": "", "dense_stretched": ", against stretched dense", "dense_restarts": ", against dense with restarts",
}  # fmt: skip


def verdict_view(verdicts: Sequence[Row], width: int) -> RenderableType:
    """The table of verdicts, or in a narrow terminal one table per ladder."""
    rows = headlines(verdicts)
    if width >= WIDTH or not rows:
        return _wide_table(rows)
    columns = _columns(rows)
    del columns["tickets"]
    if "dense of" in columns:
        columns["dense of"] = [cell.removesuffix(", stretched") for cell in columns["dense of"]]
    labels = short_labels([row["ladder"] for row in rows])
    return _narrow_table(_title(rows), rows, labels, columns, [_verdict(row) for row in rows])


def _narrow_table(
    title: str,
    rows: Sequence[Row],
    labels: Mapping[str, str],
    columns: Mapping[str, Sequence[str]],
    last: Sequence[Text],
) -> RenderableType:
    """The verdicts for a narrow terminal: each ladder as a small table under its own heading.

    labels: of the ladders. columns: heading -> one cell per row. last: the cells of the verdict, which may wrap.
    Columns have the same width in every ladder, so that numbers line up.
    """
    widths = {heading: max(map(len, [heading, *cells])) for heading, cells in columns.items()}
    shown: list[RenderableType] = [Text(title, style="bold")]
    before: tuple[str, str, str] | None = None
    for i, row in enumerate(rows):
        section = row["ladder"], row["kind"], row["role"]
        if section != before:
            role = "baseline " if row["role"] == "baseline" else ""
            against = _AGAINST.get(row["kind"], ", against other dense networks")
            shown += [
                Text(f"{role}{labels[row['ladder']]}{against}"),
                _empty_narrow_table(widths, heading=before is None),
            ]
        assert isinstance(shown[-1], Table)
        shown[-1].add_row(*(cells[i] for cells in columns.values()), last[i])
        before = section
    return Group(*shown)


def _empty_narrow_table(widths: Mapping[str, int], heading: bool) -> Table:
    """An empty table with these columns. heading: whether it shows their headings."""
    table = Table(box=None, padding=(0, GAP, 0, 0), show_header=heading, pad_edge=False)
    for name, width in widths.items():
        right = "right" if name in ("sparsity", "seeds") else "left"
        table.add_column(name, justify=right, width=width, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("verdict")
    return table


def verdict_table(verdicts: pd.DataFrame) -> Table:
    """The verdicts as a table of at most 100 columns, in the order of the frame: tickets (primary comparisons first),
    then the baselines that are judged like tickets."""
    return _wide_table(headlines(as_rows(verdicts)))


def _wide_table(rows: Sequence[Row]) -> Table:
    """rows: headlines."""
    columns = _columns(rows)
    table = Table(title=_title(rows), title_justify="left", title_style="bold", box=None, padding=(0, GAP, 0, 0))
    widths = {heading: max(map(len, [heading, *cells])) for heading, cells in columns.items()}
    widths["tickets"] = max([widths["tickets"], *(len(BASELINES) for row in rows if row["role"] != TICKET)])
    others = sum(widths.values()) - widths["tickets"] + GAP * (len(widths) + 1)
    widths["tickets"] = min(widths["tickets"], WIDTH - others - LEAST_VERDICT)
    for heading, width in widths.items():
        right = heading in ("sparsity", "seeds")
        table.add_column(heading, justify="right" if right else "left", max_width=width, no_wrap=heading != "tickets")
    table.add_column("verdict", max_width=WIDTH - others - widths["tickets"])
    for before, row, *cells in zip([None, *rows], rows, *columns.values(), strict=False):
        if before and _section(before) != _section(row):
            table.add_row()
            if before["role"] != row["role"]:
                table.add_row(BASELINES, style="dim")
        table.add_row(*cells, _verdict(row))
    return table


def answer(verdicts: pd.DataFrame) -> str:
    """The answer to the run's question in one sentence."""
    return answer_sentence(as_rows(verdicts))


def claims_table(verdicts: Sequence[Row]) -> Table:
    """The other claims that the run has trials for: one line per ladder, its sparsities grouped by answer."""
    lines: dict[str, dict[str, list[Row]]] = {}
    for row in filter(is_other_claim, verdicts):
        lines.setdefault(claim_label(row), {}).setdefault(row["ladder"], []).append(row)
    labels = short_labels([row["ladder"] for row in verdicts])
    table = Table(title="other claims", title_justify="left", title_style="bold", box=None, padding=(0, GAP, 0, 0))
    several = any(len(ladders) > 1 for ladders in lines.values())
    for heading in ("claim", *(["tickets"] if several else []), "answer, by sparsity"):
        table.add_column(heading)
    for claim, ladders in lines.items():
        for i, (ladder, rows) in enumerate(ladders.items()):
            table.add_row("" if i else claim, *([labels[ladder]] if several else []), _answers(rows))
    return table


def show(console: Console, frames: Frames, run: str) -> None:
    """Print the verdicts, the other claims, the answer, unfinished trials, and the paths of the files."""
    verdicts = frames.rows("verdicts")
    if verdicts:
        console.print()
        console.print(verdict_view(verdicts, console.width))
        others = claims_table(verdicts)
        if others.row_count:
            console.print()
            console.print(others)
    console.print()
    console.print(answer_sentence(verdicts), soft_wrap=not console.is_terminal, highlight=False)
    trials = frames.tables["trials"].select(["trial", "status", "reason"]).to_pylist()
    style = "dim" if all(row["status"] == "done" for row in trials) else "yellow"
    print_line(console, status_line(frames), style=style)
    for row in trials:
        if row["status"] not in ("done", "missing"):
            reason = f": {row['reason']}" if row["reason"] else ""
            print_line(console, f"  {row['status']}: {row['trial']}{reason}", style="yellow")
    for name, work in left_out(frames).items():
        size = f"{work.rows:,.0f} rows, made from {human_bytes(work.bytes)}"
        print_line(console, f"{name} is left empty, as it would be {size}; --geometry all makes it", style="dim")
    for what, path in paths(run).items():
        print_line(console, f"{what}  {path}")


def status_line(frames: Frames) -> str:
    """The number of trials in each status: "35 trials: 33 done, 1 failed, 1 missing"."""
    counts = counts_by_status(frames)
    listed = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "none planned"
    return f"{frames.tables['trials'].num_rows} trials: {listed}"


def counts_by_status(frames: Frames) -> dict[str, int]:
    """The number of trials in each status, zeros included."""
    found = Counter(frames.tables["trials"]["status"].to_pylist())
    return {status: found[status] for status in STATUSES}


def paths(run: str) -> dict[str, str]:
    """The paths of the files that `gather` writes, in the form of a shell."""
    tables = ",".join(name for name in TABLES if name not in OPTIONAL)
    return {"report": f"{run}/report.html", "tables": f"{run}/analysis/{{{tables}}}.parquet"}


def seeds(row: Row) -> str:
    """The number of pairs, and out of how many if some are incomplete: "5", "4 of 5"."""
    return f"{row['n_pairs']} of {row['n_pairs'] + row['n_unpaired']}" if row["n_unpaired"] else str(row["n_pairs"])


def difference(row: Row) -> str:
    """Mean difference and its interval in pp: "+0.33 [−0.04, +0.71]"."""
    if row["effect"] is None:
        return "–"
    if row["ci_low"] is None:
        return signed(row["effect"])
    return f"{signed(row['effect'])} [{signed(row['ci_low'])}, {signed(row['ci_high'])}]"


def _section(row: Row) -> tuple[str, bool]:
    """Role and whether primary: rows that have both in common form a section of the table."""
    return row["role"], row["primary"]


def _columns(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Heading -> cells, without the verdict. Repeated ladders are blank; a single baseline has no column."""
    labels = short_labels([row["ladder"] for row in rows])
    keys = [(row["ladder"], row["kind"], row["role"]) for row in rows]
    several = len({row["kind"] for row in rows}) > 1
    columns = {
        "tickets": ["" if before == key else labels[key[0]] for before, key in zip([None, *keys], keys, strict=False)],
        "sparsity": [f"{row['target_sparsity_pct']:g} %" for row in rows],
        "dense of": [_budget(row) for row in rows],
        "seeds": [seeds(row) for row in rows],
        "difference, pp (95 %)": [difference(row) for row in rows],
    }
    return columns if several else {heading: cells for heading, cells in columns.items() if heading != "dense of"}


def _title(rows: Sequence[Row]) -> str:
    if not rows:
        return "no comparisons"
    shared, first = common_label([row["ladder"] for row in rows]), rows[0]
    finest = [row["resolution"] for row in rows if row["resolution"] is not None]
    margin = f"margin {first['margin_pp']:g} pp" + (f", one image {max(finest):.2g}" if finest else "")
    return f"{shared}: {first['endpoint'].replace('_', ' ')}, tickets minus dense ({margin})"


def _verdict(row: Row) -> Text:
    """The verdict and, if undecided, the reason; the interval beside it explains the other verdicts."""
    text = Text(row["verdict"], style=STYLES[row["verdict"]])
    if row["verdict"] != "undecided":
        return text
    return text.append(f": {row['why'].replace(' at 80 % power', '')}", style="not bold")


def _budget(row: Row) -> str:
    """A dense baseline in words: "20 epochs", "120 epochs, stretched", "restarts"."""
    if row["kind"] == "dense_restarts":
        return "restarts"
    stretched = ", stretched" if row["kind"] == "dense_stretched" else ""
    return dense_label(row["baseline"]).removeprefix("dense, ") + stretched


def is_other_claim(row: Row) -> bool:
    """Whether the row belongs in the table of other claims: it has trials, and is shown nowhere else."""
    headline = row["claim"] in ("matches", "beats") and row["kind"] in DENSE_KINDS
    return not headline and row["claim"] != LADDER_CLAIM and bool(row["n_pairs"] or row["n_unpaired"])


def _answers(rows: Sequence[Row]) -> Text:
    """Sparsities by answer: "yes 64 %   no 92.22 %   undecided 87.04, 90 % (about 14, 21 seeds)"."""
    text = Text()
    for verdict in ("yes", "no", "undecided"):
        found = [row for row in rows if row["verdict"] == verdict]
        if found:
            text.append("   " if text else "").append(verdict, style=STYLES[verdict])
            text.append(f" {', '.join(format(row['target_sparsity_pct'], 'g') for row in found)} %")
        needed = [str(row["seeds_needed"] or "?") for row in found]
        if any(row["seeds_needed"] for row in found):
            text.append(f" (about {', '.join(needed)} seeds)")
    return text
