"""`python -m analysis table RUN`: print the verdicts of a run as a table for a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from analysis.labels import dense_label, short_labels
from analysis.report.lines import samples, seeds
from analysis.tables.parquet import as_rows, load
from analysis.tables.schema import Row
from analysis.text import signed
from analysis.verdicts.headlines import headlines
from lth_trainable.errors import OK, UserError
from lth_trainable.options import parsed
from lth_trainable.safe_text import one_line

Format = Literal["latex", "csv", "markdown"]
HEADINGS = (
    "tickets",
    "sparsity, %",
    "baseline",
    "seeds",
    "ticket",
    "dense",
    "difference",
    "95 % interval",
    "p",
    "verdict",
)
COLUMNS = (
    "ladder", "target_sparsity_pct", "sparsity_pct", "baseline", "endpoint", "n_pairs", "n_unpaired", "mean_ticket",
    "mean_baseline", "effect", "unit", "ci_low", "ci_high", "margin_pp", "p_decisive", "alpha", "verdict",
)  # fmt: skip
_ESCAPED = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--",
    "·": r"$\cdot$", **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print the verdicts of a run as a table: each sparsity against each dense network, from the last gather.

    Accuracies are means in percent, differences in percentage points, the interval is the two-sided 95 % interval of
    the paired differences that decides, p is that of the claim (matches, or beats where this is shown): one-sided and
    corrected.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, such as runs/digits, or its URI."""
    format: Annotated[Format, tyro.conf.arg(metavar="latex|csv|markdown")] = "markdown"
    """latex: a tabular with the rules of the package booktabs; csv: with all digits."""


def main(arguments: Sequence[str]) -> int:
    """Print the table; returns the exit code. Raises `UserError` for bad input."""
    options = parsed(Options, prog="python -m analysis table", args=arguments)
    rows = headlines(as_rows(load(options.run).verdicts))
    if not rows:
        raise UserError(f"{options.run}: found no comparisons; expected tickets with dense networks of the same seeds")
    print(WRITERS[options.format](rows), end="")
    return OK


def as_csv(rows: Sequence[Row]) -> str:
    """The verdicts as comma-separated values under the names of their columns; numbers have all their digits."""
    to = io.StringIO()
    writer = csv.writer(to, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([row[column] for column in COLUMNS] for row in rows)
    return to.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """The verdicts as a table of Markdown, and below it by which rule they were made."""
    lines = [list(HEADINGS), ["---", *("---:" for _ in HEADINGS[1:-1]), "---"], *_cells(rows)]
    table = "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
    return f"{table}\n{rule(rows)}\n"


def as_latex(rows: Sequence[Row]) -> str:
    r"""The verdicts as a `tabular`, after a comment with the rule; the document needs `\usepackage{booktabs}`."""
    body = [" & ".join(map(_escaped, line)) + r" \\" for line in (HEADINGS, *_cells(rows))]
    columns = "l" + "r" * (len(HEADINGS) - 2) + "l"
    lines = [
        f"% {rule(rows)}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule", *body[1:],
        r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


WRITERS: dict[str, Callable[[Sequence[Row]], str]] = {"latex": as_latex, "csv": as_csv, "markdown": as_markdown}


def rule(rows: Sequence[Row]) -> str:
    """What the numbers are and by which rule the verdicts were made, for the caption."""
    endpoint, margin, alpha = (rows[0][name] for name in ("endpoint", "margin_pp", "alpha"))
    return (
        f"Means of {endpoint.replace('_', ' ')} in percent; differences of pairs by seed in percentage points, with "
        f"95 % intervals; matches: less than {margin:g} pp below, by one-sided tests {samples(rows)}, at level "
        f"{alpha:g}, corrected for several ladders."
    )


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    return [
        [
            label, f"{row['target_sparsity_pct']:g}", one_line(dense_label(row["baseline"])), seeds((row,)),
            _accuracy(row["mean_ticket"]), _accuracy(row["mean_baseline"]), _signed(row["effect"]), _interval(row),
            _p(row["p_decisive"]), row["verdict"],
        ]
        for row, label in zip(rows, _labels(rows), strict=True)
    ]  # fmt: skip


def _labels(rows: Sequence[Row]) -> list[str]:
    labels = short_labels([row["ladder"] for row in rows])
    return [one_line(labels[row["ladder"]]) for row in rows]


def _accuracy(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else signed(value)


def _interval(row: Row) -> str:
    return "–" if row["ci_low"] is None else f"{signed(row['ci_low'])} to {signed(row['ci_high'])}"


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _escaped(text: str) -> str:
    return "".join(_ESCAPED.get(sign, sign) for sign in text).replace("<", "$<$")
