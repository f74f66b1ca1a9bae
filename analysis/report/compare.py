"""A comparison of two runs for the terminal: how they differ, a table, and what could not be paired."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.labels import common_label, short_labels
from analysis.text import plural, print_line, signed
from analysis.verdicts.compare import ALPHA, HIGHER, LOWER, OPEN, SAME, UNTESTED, Compared, Comparison, Difference
from analysis.verdicts.questions import MIN_PAIRS

STYLES = {HIGHER: "green", LOWER: "red", SAME: "green", OPEN: "yellow", UNTESTED: "yellow"}
SHOWN_VALUES, DIGEST = 4, 12  # at most: values of a field, characters of a SHA-256
SHOWN_UNMATCHED = 12  # at most: groups without a partner


def show_comparison(console: Console, found: Compared, path_a: str, path_b: str) -> None:
    """Print the comparison; sections with nothing to show are left out."""
    print_line(console, f"A  {path_a}")
    print_line(console, f"B  {path_b}")
    for heading, differences in (("spec", found.free), ("versions", found.versions)):
        for difference in differences:
            print_line(console, f"{heading}: {difference_text(difference)}")
        if not differences:
            print_line(console, f"{heading}: no difference", style="dim")
    console.print()
    console.print(comparison_table(found))
    console.print()
    print_line(console, bytes_sentence(found.comparisons))
    for row in found.comparisons:
        if row.unpaired:
            print_line(
                console, f"  {plural(row.n_unpaired, 'seed')} of {row.group_a} unpaired: {row.unpaired}", style="yellow"
            )
        if row.n_diverged:
            print_line(console, f"  {diverged_text(row)}", style="yellow")
    for left in found.unmatched[:SHOWN_UNMATCHED]:
        trials = plural(left.n_trials, "trial")
        print_line(console, f"  not compared: {left.group} of {left.run}, {trials}: {left.why}", style="yellow")
    more = len(found.unmatched) - SHOWN_UNMATCHED
    if more > 0:
        print_line(console, f"  not compared: {more:,} more groups; --json lists them", style="yellow")


def comparison_table(found: Compared) -> Table:
    """One line per pair of groups. p is two-sided, with Holm's correction over all groups of its kind."""
    labels = short_labels([row.ladder for row in found.comparisons])
    endpoint = found.endpoint.replace("_", " ")
    title = f"{common_label([row.ladder for row in found.comparisons])}: {endpoint}, B minus A (alpha {ALPHA:g}, Holm)"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    right = ("sparsity", "seeds", "g", "p")
    for heading in ("trials", "sparsity", "seeds", "difference, pp (95 %)", "g", "p", "same\nbytes", "result"):
        table.add_column(heading, justify="right" if heading in right else "left", no_wrap=heading != "trials")
    before = None
    for row in found.comparisons:
        table.add_row("" if row.ladder == before else labels[row.ladder], *_cells(row), _result(row))
        before = row.ladder
    return table


def bytes_sentence(rows: Sequence[Comparison]) -> str:
    """How many trials have identical metrics, which shows whether two versions of the code agree."""
    same, both = sum(row.n_same_metrics for row in rows), sum(row.n_both for row in rows)
    return f"Metrics: identical bytes in {same} of the {both} trials that both runs finished."


def difference_text(difference: Difference) -> str:
    """A difference in words: "criterion: A large_final, B movement"."""
    return f"{difference.column}: A {_values(difference.a)}, B {_values(difference.b)}"


def diverged_text(row: Comparison) -> str:
    """How many pairs of two groups count at chance, and the difference without them."""
    known = row.effect_finished
    without = "none is left without them" if known is None else f"without them {signed(known)} pp"
    counted = f"{row.n_diverged} of {plural(row.n_pairs, 'pair')} of {row.group_a} with a diverged trial"
    return f"{counted}, at chance accuracy; {without}"


def _values(values: Sequence[object]) -> str:
    texts = ["none" if value is None else _short(str(value)) for value in values]
    more = len(texts) - SHOWN_VALUES
    return " and ".join([*texts[:SHOWN_VALUES], *([f"{more} more"] if more > 0 else [])]) or "none"


def _short(text: str) -> str:
    is_digest = len(text) == 64 and not set(text) - set("0123456789abcdef")
    return text[:DIGEST] if is_digest else text


def _cells(row: Comparison) -> list[str]:
    seeds = f"{row.n_pairs} of {row.n_pairs + row.n_unpaired}" if row.n_unpaired else str(row.n_pairs)
    return [
        "" if row.target_sparsity_pct is None else f"{row.target_sparsity_pct:g} %", seeds, _effect(row),
        "–" if row.hedges_g is None else signed(row.hedges_g), _p(row.p_holm), f"{row.n_same_metrics} of {row.n_both}",
    ]  # fmt: skip


def _effect(row: Comparison) -> str:
    if row.effect is None:
        return "–"
    interval = "" if row.ci_low is None or row.ci_high is None else f" [{signed(row.ci_low)}, {signed(row.ci_high)}]"
    return signed(row.effect) + interval


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _result(row: Comparison) -> Text:
    return Text(f"under {MIN_PAIRS} seeds" if row.result == UNTESTED else row.result, style=STYLES[row.result])
