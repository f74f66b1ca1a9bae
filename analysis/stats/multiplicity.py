"""Tests of several ladders at one familywise level: a fixed sequence down each ladder, Holm across ladders.

This combines `paired.holm` and `paired.fixed_sequence`.

**The procedure.** Of L ladders, the first rung of each has the share alpha / L. A rung that is rejected hands its whole
share to the next rung of its ladder. The last rung of a ladder hands it to the other ladders in equal parts, to the
first rung of each that is not rejected yet. As a graph (Bretz, Maurer, Brannath & Posch 2009, Stat. Med. 28, p. 586):
weight 1 / L on each first rung and 0 elsewhere; an edge of 1 from each rung to the next, and from each last rung edges
of 1 / (L - 1) to the first rungs of all other ladders. The update of that paper (algorithm 1) keeps this form: after
any rejections, with R ladders left, the frontmost rung of each has 1 / R. For a last rung has 1 / R, and hands
1 / (R (R - 1)) to each of R - 1 others, which then have 1 / R + 1 / (R (R - 1)) = 1 / (R - 1). So at any moment the
frontmost rung of every unfinished ladder is tested at alpha / R. One ladder: the fixed sequence. Ladders of one rung:
Holm.

**Why the familywise error stays at alpha**, whatever hypotheses are true and however the p values depend on each other.
Let m > 0 ladders have a true null, and let h be the first true null to be rejected. Until then only false nulls were
rejected, so none of the m ladders is finished: R >= m. And all rungs before h in its ladder were rejected, so h is the
first true null of its ladder. Hence a false rejection needs p <= alpha / R <= alpha / m for the *first* true null of
one of m ladders. These are m fixed hypotheses, each with P(p <= x) <= x, and by Bonferroni the chance is at most alpha.
The same is the closed test in which an intersection gives 1 / m to the first of its hypotheses in each of the m ladders
that it meets: a smaller intersection never gives a hypothesis less, so the shortcut is exact (Hommel, Bretz & Maurer
2007, Stat. Med. 26, p. 4063).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from analysis.stats.paired import holm
from lth_trainable.errors import bad_value

Ladders = Sequence[Sequence[float | None]]  # one-sided p values, rung by rung in the order fixed beforehand


def ladder_decisions(p: Ladders, alpha: float) -> list[list[bool]]:
    """Which rungs are rejected at the familywise level `alpha` over all rungs of all ladders, in the shape of `p`.

    A p of None (not enough data) is not rejected and ends its ladder, which still counts as a ladder. False means
    tested and not rejected, or not reached. Raises `UserError` for a value that is no p value, and for a ladder without
    rungs.
    """
    if not 0 < alpha < 1:
        raise bad_value("alpha", alpha, "a probability, more than 0 and less than 1")
    return [[value <= alpha for value in ladder] for ladder in adjusted_p(p)]


def adjusted_p(p: Ladders) -> list[list[float]]:
    """The smallest familywise alpha at which each rung is rejected; 1 for a p of None and for all rungs behind it.

    A rung is rejected iff its ladder, cut off behind it, is rejected completely, as a ladder hands on its share only at
    its end. And a ladder is rejected completely iff its largest p is at most its share, so complete ladders are a Holm
    procedure on their largest p values. Hence the adjusted p of a rung is `holm` of the largest p of each other ladder
    and the largest p up to this rung of its own ladder.
    """
    _check(p)
    largest = [list(accumulate((1.0 if value is None else value for value in ladder), max)) for ladder in p]
    whole = [ladder[-1] for ladder in largest]
    return [[holm([*whole[:i], value, *whole[i + 1 :]])[i] for value in ladder] for i, ladder in enumerate(largest)]


def _check(p: Ladders) -> None:
    for i, ladder in enumerate(p):
        if not ladder:
            raise bad_value(f"ladder {i}", list(ladder), "at least one rung")
        for j, value in enumerate(ladder):
            if value is not None and not 0 <= value <= 1:
                raise bad_value(f"p of ladder {i}, rung {j}", value, "a probability, or None where there is no test")
