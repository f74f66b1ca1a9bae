"""The verdicts for the terminal: a table of at most 100 columns, the answer, the paths of the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.labels import claim_label, common_label, short_labels
from analysis.report.lines import (
    Line,
    corrected,
    dense_of,
    differ_in_numbers,
    differences,
    folded,
    is_corrected,
    is_folded,
    joined,
    reason,
    samples,
    seeds,
    sparsities,
    tickets,
    verdict,
)
from analysis.report.proportion import again, margin
from analysis.report.weights import weights_said
from analysis.tables.geometry import left_out
from analysis.tables.parquet import OPTIONAL, Frames, as_rows
from analysis.tables.schema import (
    BEATS,
    FALLS_SHORT,
    LOWER,
    MATCHES,
    STATUSES,
    TABLES,
    UNDECIDED,
    Row,
)
from analysis.text import PLAIN_WIDTH, human_bytes, print_line
from analysis.verdicts.answer import about_initialisation, answer_sentence
from analysis.verdicts.baselines import DENSE_KINDS
from analysis.verdicts.groups import TICKET
from analysis.verdicts.headlines import headlines
from analysis.verdicts.reasons import diverged_note
from analysis.verdicts.rows import LADDER_CLAIM

if TYPE_CHECKING:
    import pandas as pd

WIDTH, LEAST_VERDICT, GAP = PLAIN_WIDTH, 18, 2  # characters: whole table, column "verdict", between columns
Lines = Callable[[Sequence[Row]], list[Line]]
BASELINES = "baselines"  # their heading in the table
STYLES = {
    BEATS: "bold green", MATCHES: "green", LOWER: "cyan", FALLS_SHORT: "red", UNDECIDED: "yellow",
    "yes": "green", "no": "red",
}  # fmt: skip
_AGAINST = {
    "dense": "", "dense_stretched": ", against stretched dense", "dense_restarts": ", against dense with restarts",
}  # fmt: skip


def verdict_view(verdicts: Sequence[Row], width: int, lines: Lines = folded) -> RenderableType:
    """The table of verdicts, or in a narrow terminal one table per ladder. lines: how rows become lines."""
    rows = headlines(verdicts)
    shown = lines(rows)
    if width >= WIDTH or not rows:
        return _wide_table(rows, shown)
    columns = _columns(rows, shown)
    del columns["tickets"]
    if "dense of" in columns:
        columns["dense of"] = [cell.removesuffix(", stretched") for cell in columns["dense of"]]
    return _narrow_table(rows, shown, columns)


def _narrow_table(rows: Sequence[Row], lines: Sequence[Line], columns: Mapping[str, Sequence[str]]) -> RenderableType:
    """The verdicts for a narrow terminal: each ladder as a small table under its own heading.

    columns: heading -> one cell per line. Columns have the same width in every ladder, so that numbers line up.
    """
    widths = {heading: max(map(len, [heading, *cells])) for heading, cells in columns.items()}
    labels = short_labels([row["ladder"] for row in rows])
    shown: list[RenderableType] = [Text(_title(rows), style="bold")]
    before: tuple[str, str, str] | None = None
    for i, line in enumerate(lines):
        row = line[0]
        section = tickets(line, labels), row["kind"], row["role"]
        if section != before:
            role = "baseline " if row["role"] == "baseline" else ""
            against = _AGAINST.get(row["kind"], ", against other dense networks")
            shown += [Text(f"{role}{section[0]}{against}"), _empty_narrow_table(widths, heading=before is None)]
        assert isinstance(shown[-1], Table)
        shown[-1].add_row(*(cells[i] for cells in columns.values()), _verdict(line))
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


def verdict_table(verdicts: pd.DataFrame, lines: Lines = folded) -> Table:
    """The verdicts as a table of at most 100 columns, in the order of the frame: tickets (primary comparisons first),
    then the baselines that are judged like tickets. Undecided rows that follow each other share a line; with
    `lines=every_row` each has its own."""
    rows = headlines(as_rows(verdicts))
    return _wide_table(rows, lines(rows))


def _wide_table(rows: Sequence[Row], lines: Sequence[Line]) -> Table:
    """rows: headlines."""
    columns = _columns(rows, lines)
    table = Table(title=_title(rows), title_justify="left", title_style="bold", box=None, padding=(0, GAP, 0, 0))
    widths = {heading: max(map(len, [heading, *cells])) for heading, cells in columns.items()}
    widths["tickets"] = max([widths["tickets"], *(len(BASELINES) for row in rows if row["role"] != TICKET)])
    others = sum(widths.values()) - widths["tickets"] + GAP * (len(widths) + 1)
    widths["tickets"] = min(widths["tickets"], WIDTH - others - LEAST_VERDICT)
    for heading, width in widths.items():
        right = heading in ("sparsity", "seeds")
        table.add_column(heading, justify="right" if right else "left", max_width=width, no_wrap=heading != "tickets")
    table.add_column("verdict", max_width=WIDTH - others - widths["tickets"])
    for before, line, *cells in zip([None, *lines], lines, *columns.values(), strict=False):
        if before and _section(before[0]) != _section(line[0]):
            table.add_row()
            if before[0]["role"] != line[0]["role"]:
                table.add_row(BASELINES, style="dim")
        table.add_row(*cells, _verdict(line))
    return table


def answer(verdicts: pd.DataFrame) -> str:
    """The answer to the run's question in one sentence."""
    return answer_sentence(as_rows(verdicts))


def claims_table(verdicts: Sequence[Row], lines: Lines = folded) -> Table:
    """The other claims that the run has trials for: one line per ladder, its sparsities grouped by answer; or one line
    for ladders that are undecided throughout."""
    by_claim: dict[str, list[Row]] = {}
    for row in filter(is_other_claim, verdicts):
        by_claim.setdefault(claim_label(row), []).append(row)
    labels = short_labels([row["ladder"] for row in verdicts])
    table = Table(title="other claims", title_justify="left", title_style="bold", box=None, padding=(0, GAP, 0, 0))
    several = any(len({row["ladder"] for row in rows}) > 1 for rows in by_claim.values())
    for heading in ("claim", *(["tickets"] if several else []), "answer, by sparsity"):
        table.add_column(heading)
    for claim, rows in by_claim.items():
        for i, (named, answers) in enumerate(_by_tickets(lines(rows), labels)):
            table.add_row("" if i else claim, *([named] if several else []), answers)
    return table


def _by_tickets(lines: Sequence[Line], labels: Mapping[str, str]) -> list[tuple[str, Text]]:
    """Tickets and their answers. Lines of one ladder are brought together; a line of several ladders stays alone."""
    ladders: dict[str, list[Row]] = {}
    for line in lines:
        ladders.setdefault(tickets(line, labels), []).extend(line)
    return [
        (named, _answers(rows) if len({row["ladder"] for row in rows}) == 1 else _shared_answer(tuple(rows)))
        for named, rows in ladders.items()
    ]


def _shared_answer(line: Line) -> Text:
    """The answer of ladders that are undecided throughout: "undecided 64 to 92.22 % (5 to 90 seeds)"."""
    text = Text().append(UNDECIDED, style=STYLES[UNDECIDED]).append(f" {sparsities(line)} %")
    hints = [row["would_decide"] for row in line if row["would_decide"]]
    return text.append(f" ({joined(hints)})") if hints else text


def show(console: Console, frames: Frames, run: str, lines: Lines = folded) -> None:
    """Print the verdicts, the other claims, the answer, unfinished trials, and the paths of the files.

    lines: how rows of verdicts become lines; `every_row` gives each a line of its own."""
    verdicts = frames.rows("verdicts")
    if verdicts:
        console.print()
        console.print(verdict_view(verdicts, console.width, lines))
        for line in again(headlines(verdicts)):
            print_line(console, line, style="dim")
        others = claims_table(verdicts, lines)
        if others.row_count:
            console.print()
            console.print(others)
        if any(map(is_folded, lines([*headlines(verdicts), *filter(is_other_claim, verdicts)]))):
            print_line(console, f"each undecided row by itself: python -m analysis {run} --details", style="dim")
    console.print()
    console.print(answer_sentence(verdicts), soft_wrap=not console.is_terminal, highlight=False)
    if (sentence := about_initialisation(verdicts)) is not None:
        console.print(sentence, soft_wrap=not console.is_terminal, highlight=False)
    trials = frames.tables["trials"].select(["trial", "status", "reason"]).to_pylist()
    style = "dim" if all(row["status"] == "done" for row in trials) else "yellow"
    print_line(console, status_line(frames), style=style)
    for said in weights_said(frames):
        print_line(console, said.text, style="yellow" if said.is_little else "dim")
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


def _section(row: Row) -> tuple[str, bool]:
    """Role and whether primary: rows that have both in common form a section of the table."""
    return row["role"], row["primary"]


def _columns(rows: Sequence[Row], lines: Sequence[Line]) -> dict[str, list[str]]:
    """Heading -> cells, without the verdict. Repeated ladders are blank; a single baseline has no column."""
    labels = short_labels([row["ladder"] for row in rows])
    keys = [(tickets(line, labels), line[0]["kind"], line[0]["role"]) for line in lines]
    several = len({row["kind"] for row in rows}) > 1
    columns = {
        "tickets": ["" if before == key else key[0] for before, key in zip([None, *keys], keys, strict=False)],
        "sparsity": [f"{sparsities(line)} %" for line in lines],
        "dense of": [_budget(line) for line in lines],
        "seeds": [seeds(line) for line in lines],
        "difference, pp (95 %)": [differences(line) for line in lines],
        **({"bound": [corrected(line) for line in lines]} if is_corrected(rows) else {}),
    }
    return columns if several else {heading: cells for heading, cells in columns.items() if heading != "dense of"}


def _title(rows: Sequence[Row]) -> str:
    if not rows:
        return "no comparisons"
    shared, first = common_label([row["ladder"] for row in rows]), rows[0]
    said = f"{shared}: {first['endpoint'].replace('_', ' ')}, tickets minus dense"
    return f"{said}\n{margin(rows)}; tested {samples(rows)}"


def _verdict(line: Line) -> Text:
    """The verdict and, if undecided, the reason; the interval beside it explains the other verdicts.

    Where trials diverged, all verdicts say what that means for the numbers.
    """
    text = Text(verdict(line), style=STYLES[line[0]["verdict"]])
    if line[0]["verdict"] != UNDECIDED:
        note = diverged_note(line[0])
        return text.append(f": {note}", style="not bold") if note else text
    return text.append(f": {reason(line).replace(' at 80 % power', '')}", style="not bold")


def _budget(line: Line) -> str:
    """The dense networks in words: "20 epochs", "120 epochs, stretched", "restarts"."""
    if line[0]["kind"] == "dense_restarts":
        return "restarts"
    return dense_of(line) + (", stretched" if line[0]["kind"] == "dense_stretched" else "")


def is_other_claim(row: Row) -> bool:
    """Whether the row belongs in the table of other claims: it has trials, and is shown nowhere else."""
    headline = row["claim"] in ("matches", "beats") and row["kind"] in DENSE_KINDS
    return not headline and row["claim"] != LADDER_CLAIM and bool(row["n_pairs"] or row["n_unpaired"])


def _answers(rows: Sequence[Row]) -> Text:
    """Sparsities by answer: "yes 64 %   no 92.22 %   undecided 87.04, 90 % (14 to 90 seeds)"."""
    text = Text()
    for word in ("yes", "no", "undecided"):
        found = [row for row in rows if row["verdict"] == word]
        if found:
            text.append("   " if text else "").append(word, style=STYLES[word]).append(f" {_with_hints(found)}")
    return text


def _with_hints(rows: Sequence[Row]) -> str:
    """Sparsities, with what would decide them in parentheses: once for all, or beside each if it differs in kind."""
    listed = ", ".join(format(row["target_sparsity_pct"], "g") for row in rows)
    hints = [row["would_decide"] for row in rows if row["would_decide"]]
    if not hints:
        return f"{listed} %"
    if len(hints) == len(rows) and differ_in_numbers(hints):
        return f"{listed} % ({joined(hints)})"
    return ", ".join(
        f"{row['target_sparsity_pct']:g} %" + (f" ({row['would_decide']})" if row["would_decide"] else "")
        for row in rows
    )
