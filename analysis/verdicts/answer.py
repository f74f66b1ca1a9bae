"""The answer to the question of a run in one sentence, made from the rows of its verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from analysis.labels import in_words, name_parts, short_labels
from analysis.tables.schema import BEATS, FALLS_SHORT, LOWER, UNDECIDED, Row
from analysis.text import percent, plural, signed
from analysis.verdicts.groups import TICKET
from analysis.verdicts.headlines import KEEPING_UP, of_tickets
from analysis.verdicts.prizes import REINIT
from analysis.verdicts.questions import MIN_PAIRS


def answer_sentence(verdicts: Sequence[Row]) -> str:
    """The answer from the primary comparisons of all tickets, with a clause for each setting (see `setting`).

    It names the best and the worst ladder (rewind point), and how many comparisons are shown lower, fall short, or are
    undecided.
    """
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


def about_initialisation(verdicts: Sequence[Row]) -> str | None:
    """What the run shows about the tickets' own start weights, in a sentence; None for a run without tickets.

    It needs tickets' masks that were also trained from another initialisation (the control reinit). Without them the
    sentence says that nothing is claimed.
    """
    asked = [row for row in verdicts if row["role"] == TICKET and row["n_pairs"]]
    if not asked:
        return None
    found = [row for row in asked if row["claim"] == "beats" and row["kind"] == REINIT and row["effect"] is not None]
    if not found:
        return (
            "No ticket was trained from another initialisation under the same mask (--controls reinit), so nothing is "
            "claimed about the initialisation."
        )
    shows = _matters(found) if any(row["verdict"] == "yes" for row in found) else _not_shown_to_matter(found)
    return f"{shows}{_below(found)}."


def _matters(rows: Sequence[Row]) -> str:
    better = [row for row in rows if row["verdict"] == "yes"]
    return (
        f"The initialisation is shown to matter in {len(better)} of {plural(len(rows), 'comparison')}: there the "
        f"tickets beat the same masks trained from another initialisation (reinit; {_effects(better)} on average)"
    )


def _not_shown_to_matter(rows: Sequence[Row]) -> str:
    above = sum(row["ci_low"] is not None and row["ci_low"] > 0 for row in rows)
    few = min(row["n_pairs"] for row in rows) < MIN_PAIRS
    by_seeds, by_holm = f"nothing is decided with fewer than {MIN_PAIRS} seeds", "not after Holm's correction over"
    why = by_seeds if few else f"{by_holm} {len(rows)}"
    corrected = f" ({above} of the 95 % intervals {'lies' if above == 1 else 'lie'} above 0, but {why})"
    none = f"in none of {len(rows)} comparisons is the ticket" if len(rows) > 1 else "in the only one the ticket is not"
    return (
        "It is not shown that the initialisation matters: tickets minus the same masks trained from another "
        f"initialisation (reinit) are {_effects(rows)} on average, and "
        f"{none} shown to be better{corrected if above else ''}"
    )


def _below(rows: Sequence[Row]) -> str:
    count = sum(row["verdict"] == "no" for row in rows)
    return f"; in {count} of them the ticket is shown to be worse" if count else ""


def _effects(rows: Sequence[Row]) -> str:
    """The smallest and the largest mean difference."""
    low, high = (signed(end(row["effect"] for row in rows)) for end in (min, max))
    return f"{low} pp" if low == high else f"{low} to {high} pp"


def setting(row: Row) -> str:
    """Data set, model and dense baseline of a comparison in words. A panel of the figure shows one setting."""
    name = row["baseline_group"] or f"{row['dataset']}-{row['model']}-{row['baseline'].removeprefix('dense-')}"
    return in_words([part for part in name_parts(name) if part.text != "dense"])


def _clause(rows: Sequence[Row]) -> str:
    if all(row["verdict"] == UNDECIDED and not row["shown_lower"] for row in rows):
        return _nothing_decided(rows)
    best, *worst = _best_and_worst(rows)
    labels = short_labels([row["ladder"] for row in rows])
    if best["verdict"] not in KEEPING_UP:
        return "; ".join([_none_matches(best, labels), *_counts(rows)])
    name = "the tickets" if not worst else f"the best tickets ({labels[best['ladder']]})"
    others = [f"the worst ({labels[row['ladder']]}) {_result(row)}" for row in worst]
    return "; ".join([f"{name} {_result(best)}", *others, *_counts(rows)])


def _best_and_worst(rows: Sequence[Row]) -> list[Row]:
    """The row that stands for the best ladder, and that for the worst if there are several.

    The row of a ladder is its sparsest one that keeps up with dense, or else the one with the best mean. Ladders are
    ranked by the sparsity of that row, then by its verdict (one that matches before one that is shown lower), then by
    its mean.
    """
    ladders: dict[str, list[Row]] = {}
    for row in rows:
        ladders.setdefault(row["ladder"], []).append(row)
    ranked = sorted((_standing(found) for found in ladders.values()), key=_rank)
    return ranked[-1:] if len(ranked) == 1 else [ranked[-1], ranked[0]]


def _standing(ladder: Sequence[Row]) -> Row:
    good = [row for row in ladder if row["verdict"] in KEEPING_UP]
    return max(good, key=lambda row: row["target_sparsity_pct"]) if good else max(ladder, key=_mean)


def _rank(row: Row) -> tuple[float, int, float]:
    if row["verdict"] not in KEEPING_UP:
        return -1.0, 0, _mean(row)
    return row["target_sparsity_pct"], -KEEPING_UP.index(row["verdict"]), _mean(row)


def _mean(row: Row) -> float:
    return -float("inf") if row["effect"] is None else float(row["effect"])


def _none_matches(best: Row, labels: Mapping[str, str]) -> str:
    said = "no ticket is shown to match the dense network"
    if best["effect"] is None or best["sparsity_pct"] is None:
        return said
    return f"{said}; the nearest ones ({labels[best['ladder']]}, {_kept(best)}) differ by {_numbers(best)}"


def _numbers(row: Row) -> str:
    """The mean difference with its interval and the number of seeds."""
    if row["effect"] is None:
        return "no pair is finished"
    if row["ci_low"] is None:
        return f"{signed(row['effect'])} pp"
    interval = f"95 % interval {signed(row['ci_low'])} to {signed(row['ci_high'])}"
    return f"{signed(row['effect'])} pp, {interval}, {row['n_pairs']} seeds"


def _result(row: Row) -> str:
    """What is shown of the row of a ladder, with its numbers."""
    numbers = _numbers(row)
    if row["verdict"] not in KEEPING_UP:
        kept = "" if row["sparsity_pct"] is None else f"{_kept(row)}: "
        return f"are not shown to match it at any sparsity ({kept}{numbers})"
    if row["verdict"] == BEATS:
        return f"beat the dense network at {_kept(row)} ({numbers})"
    if row["verdict"] == LOWER:
        within = f"stay within the margin of {row['margin_pp']:g} pp down to {_kept(row)}"
        return f"{within}, but are shown to be lower there ({numbers})"
    return f"match the dense network down to {_kept(row)} ({numbers})"


def _kept(row: Row) -> str:
    return f"{percent(100 - row['sparsity_pct'])} % of the weights"


def _counts(rows: Sequence[Row]) -> list[str]:
    """How many comparisons are shown lower than dense, fall short, and are undecided."""
    counts = {
        "shown lower than dense": sum(row["shown_lower"] for row in rows),
        "more than the margin lower": sum(row["verdict"] == FALLS_SHORT for row in rows),
        "undecided": sum(row["verdict"] == UNDECIDED for row in rows),
    }
    found = [(words, count) for words, count in counts.items() if count]
    if not found:
        return []
    (words, count), *others = found
    first = f"{count} of {len(rows)} comparisons {'is' if count == 1 else 'are'} {words}"
    return [", ".join([first, *(f"{count} {words}" for words, count in others)])]


def _nothing_decided(rows: Sequence[Row]) -> str:
    reason, count = Counter(row["why"] for row in rows).most_common(1)[0]
    most = "" if count == len(rows) else "most often: "
    if len(rows) == 1:
        return f"undecided: the only comparison with the dense network is not decided ({reason})"
    return f"undecided: none of the {len(rows)} comparisons with the dense network is decided ({most}{reason})"
