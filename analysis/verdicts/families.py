"""From the p values of questions to answers that hold at alpha over their whole family.

A *family* is all questions of one claim against baselines of one kind. Tickets and baselines that are judged like
tickets are separate families, so adding baselines to a run does not change the answers about its tickets. A question
that cannot be tested counts in its family as p = 1, so that an unfinished sweep is not judged more mildly than a
finished one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.stats import paired as stats
from analysis.stats.multiplicity import adjusted_p
from analysis.verdicts.groups import ladder_key
from analysis.verdicts.questions import Evidence, Question

YES, NO, UNDECIDED = "yes", "no", "undecided"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to a question.

    p, p_against: of the claim and of its reverse, from all pairs or looks, before the correction; None if not tested.
    decisive, decisive_against: the same adjusted for the family, to be compared with alpha; None if not tested, which
    includes rungs behind the end of a ladder. correction, correction_against: how they were adjusted, in words.
    share, share_against: the fraction of alpha that the question is guaranteed within its family. stopped: the question
    at which its ladder ended before this one; None if it did not. level, level_against: the part of alpha at which it
    was tested in the end, after the rejections of the others: p is at most this level just where the claim is shown;
    None if not tested.
    """

    question: Question
    verdict: str
    p: float | None
    p_against: float | None
    decisive: float | None
    decisive_against: float | None
    correction: str
    correction_against: str
    share: float
    share_against: float
    stopped: Question | None = None
    level: float | None = None
    level_against: float | None = None


def by_holm(questions: Sequence[Question], evidence: Evidence) -> list[Answer]:
    """Answers by Holm over the family, for the claim and for its reverse (Holm 1979, Scand. J. Statist. 6, p. 65)."""
    return _answers(questions, evidence, _holm)


def by_ladder(questions: Sequence[Question], evidence: Evidence) -> list[Answer]:
    """Answers by a fixed sequence down each ladder and Holm across ladders (`multiplicity`); the reverse by Holm.

    The questions of one ladder and one baseline form a sequence, from the least sparse rung on. The sequence ends at
    the first rung that is not shown or cannot be tested; the rungs behind it are not tested.
    """
    return _answers(questions, evidence, _down_the_ladders)


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """The adjusted p of one side of a question, and how it was adjusted."""

    decisive: float | None
    correction: str
    share: float
    level: float | None
    stopped: Question | None = None


_Rule = Callable[[Sequence[Question], Sequence[float | None], float], list[_Shown]]


def _answers(questions: Sequence[Question], evidence: Evidence, rule: _Rule) -> list[Answer]:
    """Answers in the order of the questions. There is one family for each role of the group and kind of baseline."""
    families: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        families[question.candidate.group.role, question.kind].append(index)
    found: dict[int, Answer] = {}
    for indices in families.values():
        family = [questions[i] for i in indices]
        found |= dict(zip(indices, _family(family, evidence, rule), strict=True))
    return [found[index] for index in range(len(questions))]


def _family(family: Sequence[Question], evidence: Evidence, rule: _Rule) -> list[Answer]:
    alpha = evidence.rule.alpha
    p = [evidence.p_for(question) for question in family]
    p_against = [evidence.p_against(question) for question in family]
    shown, refuted = rule(family, p, alpha), _holm(family, p_against, alpha)
    return [
        Answer(
            question=question, verdict=_verdict(yes.decisive, no.decisive, alpha), p=p[i], p_against=p_against[i],
            decisive=yes.decisive, decisive_against=no.decisive, correction=yes.correction,
            correction_against=no.correction, share=yes.share, share_against=no.share, stopped=yes.stopped,
            level=yes.level, level_against=no.level,
        )
        for i, (question, yes, no) in enumerate(zip(family, shown, refuted, strict=True))
    ]  # fmt: skip


def _verdict(decisive: float | None, against: float | None, alpha: float) -> str:
    if decisive is not None and decisive <= alpha:
        return YES
    return NO if against is not None and against <= alpha else UNDECIDED


def _holm(family: Sequence[Question], p: Sequence[float | None], alpha: float) -> list[_Shown]:
    adjusted = stats.holm([1.0 if value is None else value for value in p])
    words = f"Holm over {len(family)}" if len(family) > 1 else ""
    shown = [value is not None and value_holm <= alpha for value, value_holm in zip(p, adjusted, strict=True)]
    return [
        _Shown(
            decisive=None if value is None else holm, correction=words, share=alpha / len(family),
            level=None if value is None else alpha / (len(family) - (sum(shown) - rejected)),
        )
        for value, holm, rejected in zip(p, adjusted, shown, strict=True)
    ]  # fmt: skip


def _down_the_ladders(family: Sequence[Question], p: Sequence[float | None], alpha: float) -> list[_Shown]:
    ladders: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, question in enumerate(family):
        ladders[_ladder(question)].append(index)
    adjusted = adjusted_p([[p[i] for i in indices] for indices in ladders.values()])
    words = f"Holm over {len(ladders)} ladders" if len(ladders) > 1 else ""
    found: dict[int, _Shown] = {}
    complete = [values[-1] <= alpha for values in adjusted]
    for indices, values, done in zip(ladders.values(), adjusted, complete, strict=True):
        level = alpha / (len(ladders) - (sum(complete) - done))
        end = next((j for j, value in enumerate(values) if value > alpha), len(values))
        for j, (index, value) in enumerate(zip(indices, values, strict=True)):
            reached = j <= end and p[index] is not None
            found[index] = _Shown(
                decisive=value if reached else None, correction=words, share=alpha / len(ladders),
                level=level if reached else None,
                stopped=family[indices[end]] if j > end else None,
            )  # fmt: skip
    return [found[index] for index in range(len(family))]


def _ladder(question: Question) -> tuple[Any, ...]:
    """The sequence that a question belongs to: its ladder, and its baseline if that is the same for all rungs."""
    name = question.baseline if question.kind in ("dense", "dense_other") else question.kind
    return ladder_key(question.candidate.group), name
