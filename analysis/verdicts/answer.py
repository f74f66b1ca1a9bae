"""The answer to the question of a run in one sentence, made from the rows of its verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from analysis.labels import in_words, name_parts, short_labels
from analysis.tables.schema import Row
from analysis.text import percent, signed
from analysis.verdicts.groups import TICKET

KEEPING_UP = ("beats dense", "matches dense")


def headlines(verdicts: Sequence[Row]) -> list[Row]:
    """One row for each group and dense baseline, which joins the answers to "matches" and "beats".

    It is the row of "matches" with another verdict: "beats dense", "matches dense", "falls short" (shown not to match)
    or "undecided". Rows keep the order of the "matches" rows.
    """
    beating = {(row["group"], row["baseline"]): row for row in verdicts if row["claim"] == "beats"}
    return [_headline(row, beating[row["group"], row["baseline"]]) for row in verdicts if row["claim"] == "matches"]


def of_tickets(verdicts: Sequence[Row]) -> list[Row]:
    """The headlines that answer the question of the run: primary comparisons of tickets, not of baselines."""
    return [row for row in headlines(verdicts) if row["primary"] and row["role"] == TICKET]


def _headline(matching: Row, beating: Row) -> Row:
    if beating["verdict"] == "yes":
        return {**matching, "verdict": "beats dense", "why": beating["why"]}
    words = {"yes": "matches dense", "no": "falls short", "undecided": "undecided"}
    return {**matching, "verdict": words[matching["verdict"]]}


def answer_sentence(verdicts: Sequence[Row]) -> str:
    """One sentence about the primary comparisons of all tickets, with a clause for each setting (see `setting`)."""
    primary = of_tickets(verdicts)
    if not primary:
        return "No answer yet: the run has no tickets to compare with a dense network."
    settings: dict[str, list[Row]] = {}
    for row in primary:
        settings.setdefault(setting(row), []).append(row)
    clauses = [_clause(rows) for rows in settings.values()]
    if len(settings) > 1:
        clauses = [f"{name}: {clause}" for name, clause in zip(settings, clauses, strict=True)]
    sentence = "; ".join(clauses) + "."
    return sentence[0].upper() + sentence[1:]


def setting(row: Row) -> str:
    """Data set, model and dense baseline of a comparison in words. A panel of the figure shows one setting."""
    name = row["baseline_group"] or f"{row['dataset']}-{row['model']}-{row['baseline'].removeprefix('dense-')}"
    return in_words([part for part in name_parts(name) if part.text != "dense"])


def _clause(rows: Sequence[Row]) -> str:
    good = [row for row in rows if row["verdict"] in KEEPING_UP]
    short = [row for row in rows if row["verdict"] == "falls short"]
    undecided = len(rows) - len(good) - len(short)
    if not good and not short:
        return _nothing_decided(rows)
    first = _kept_up(good, rows) if good else _nearest(rows)
    others = [
        *([_share(len(short), rows, "falls short", "fall short")] if short else []),
        *([_share(undecided, rows, "is undecided", "are undecided")] if undecided else []),
    ]
    return "; ".join([first, *others])


def _share(count: int, rows: Sequence[Row], one: str, several: str) -> str:
    if count == len(rows) > 1:
        return f"all {count} comparisons {several}"
    return f"{count} of {len(rows)} comparisons {one if count == 1 else several}"


def _kept_up(good: Sequence[Row], rows: Sequence[Row]) -> str:
    """The sparsest tickets that match or beat dense; of equally sparse ones those with the best mean."""
    best = max(good, key=lambda row: (row["target_sparsity_pct"], row["effect"]))
    label = short_labels([row["ladder"] for row in rows])[best["ladder"]]
    interval = f"95 % interval {signed(best['ci_low'])} to {signed(best['ci_high'])}"
    verb = "beat" if best["verdict"] == "beats dense" else "match"
    kept = percent(100 - best["sparsity_pct"])
    return (
        f"the sparsest tickets shown to {verb} the dense network keep {kept} % of the weights "
        f"({label}: {signed(best['effect'])} pp, {interval}, {best['n_pairs']} seeds)"
    )


def _nearest(rows: Sequence[Row]) -> str:
    best = max((row for row in rows if row["effect"] is not None), key=lambda row: row["effect"])
    label = short_labels([row["ladder"] for row in rows])[best["ladder"]]
    kept, difference = percent(100 - best["sparsity_pct"]), signed(best["effect"])
    return (
        "no ticket is shown to match the dense network; the nearest ones "
        f"({label}, {kept} % of the weights) differ by {difference} pp"
    )


def _nothing_decided(rows: Sequence[Row]) -> str:
    reason, count = Counter(row["why"] for row in rows).most_common(1)[0]
    most = "" if count == len(rows) else "most often: "
    if len(rows) == 1:
        return f"undecided: the only comparison with the dense network is not decided ({reason})"
    return f"undecided: none of the {len(rows)} comparisons with the dense network is decided ({most}{reason})"
