"""Which tickets of a run are worth handing on: for an archive, and for trackers of experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.tables.exclusions import unknown_trial
from analysis.tables.schema import Row
from analysis.text import signed
from analysis.verdicts.headlines import KEEPING_UP, of_tickets
from lth_trainable.errors import bad_value

BEST, MATCHING, ALL, NONE = WORDS = ("best", "matching", "all", "none")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The trials that were chosen, and why."""

    trials: tuple[str, ...]
    why: str


def choose(
    trials: Sequence[Row], verdicts: Sequence[Row], wanted: Sequence[str] = (BEST,), flag: str = "--tickets"
) -> Choice:
    """Choose tickets by the rows of trials and verdicts. Raises `UserError` for an unknown name.

    wanted: one of `WORDS`, or names of trials and groups. flag: where that was said.
    """
    done = [row for row in trials if row["status"] == "done"]
    if len(wanted) == 1 and wanted[0] in WORDS:
        if wanted[0] in (BEST, MATCHING):
            return _best(done, verdicts) if wanted[0] == BEST else _matching(done, verdicts)
        names = [row["trial"] for row in done if row["control"] == "none"] if wanted[0] == ALL else []
        return Choice(trials=tuple(names), why=f"as requested: {flag} {wanted[0]}")
    chosen: dict[str, None] = {}
    for name in wanted:
        members = [row["trial"] for row in done if name in (row["trial"], row["group"])]
        if not members:
            valid = {value for row in done for value in (row["trial"], row["group"])}
            if len(wanted) > 1 and name in WORDS:
                raise bad_value(flag, name, "that word alone, or names of trials and groups")
            expected = f"{', '.join(WORDS)}, or names of finished trials and groups"
            raise unknown_trial(flag, name, {*WORDS, *valid}, expected)
        chosen |= dict.fromkeys(members)
    return Choice(trials=tuple(chosen), why=f"as requested: {flag} {' '.join(wanted)}")


def _best(done: Sequence[Row], verdicts: Sequence[Row]) -> Choice:
    """One ticket per seed, from the sparsest group that keeps up with dense, or else from the one closest to it."""
    compared = [row for row in of_tickets(verdicts) if row["n_pairs"]]
    good = [row for row in compared if row["verdict"] in KEEPING_UP]
    if not compared:
        return Choice(trials=(), why="no ticket has a finished dense trial to compare with; --tickets can name some")
    if good:
        row = max(good, key=lambda row: (row["sparsity_pct"], row["effect"]))
        why = f"the sparsest tickets with the verdict '{row['verdict']}'"
    else:
        row = max(compared, key=lambda row: (row["effect"], row["sparsity_pct"]))
        why = "no tickets were shown to match the dense network; these have the best mean difference from it"
    by_seed: dict[int, str] = {}
    for trial in done:
        if trial["group"] == row["group"]:
            by_seed.setdefault(trial["seed"], trial["trial"])
    numbers = f"{row['sparsity_pct']:.2f} % of the weights removed, {signed(row['effect'])} pp"
    return Choice(trials=tuple(by_seed.values()), why=f"{why} ({row['group']}: {numbers}), one per seed")


def _matching(done: Sequence[Row], verdicts: Sequence[Row]) -> Choice:
    """Of each ladder the sparsest group that keeps up with dense: its trial of the lowest seed."""
    good = [row for row in of_tickets(verdicts) if row["verdict"] in KEEPING_UP]
    if not good:
        return Choice(trials=(), why="no ticket was shown to match the dense network")
    sparsest: dict[str, Row] = {}
    for row in sorted(good, key=lambda row: (row["sparsity_pct"], row["effect"])):
        sparsest[row["ladder"]] = row
    chosen = []
    for row in sparsest.values():
        members = [trial for trial in done if trial["group"] == row["group"]]
        chosen += [min(members, key=lambda trial: trial["seed"])["trial"]] if members else []
    return Choice(trials=tuple(sorted(chosen)), why="the sparsest matching ticket of each rewind point, lowest seed")
