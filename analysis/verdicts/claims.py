"""The claims that a run can make about its tickets, one function for each.

What all claims share: The unit of replication is the seed, and a difference is ticket minus baseline of one seed.
Endpoint, margin and alpha come from the plan and are fixed before the first trial. Each test is one-sided and paired:
the paired t test over seeds, and where it is known which images are right also the test over seeds and images
(`analysis.stats.crossed`), of which the larger p counts; if all differences are equal, the exact sign-flip test over
seeds; if values are censored, the sign test. The docstrings below call this "paired". No claim is tested on fewer than
`MIN_PAIRS` pairs. The answer is yes if the claim is shown, no if its reverse is shown, and undecided
otherwise. Answers hold at alpha over their family: all questions of one claim against one kind of baseline.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from analysis.tables.clocks import has_clock
from analysis.tables.run_plan import Rule
from analysis.tables.schema import RESTORED, Row
from analysis.verdicts.baselines import DENSE_KINDS, METHODS, SMALL_DENSE, Baseline, Candidate, find_candidates
from analysis.verdicts.families import Answer, by_holm, by_ladder
from analysis.verdicts.groups import BASELINE
from analysis.verdicts.headlines import with_headlines
from analysis.verdicts.outlook import looks_taken
from analysis.verdicts.prizes import REINIT, SEVERAL, prize_questions
from analysis.verdicts.questions import BoundTest, BoundTests, Evidence, Question
from analysis.verdicts.rows import ladder_row, row_of

SIGN_SHUFFLE = "sign_shuffle"
RANDOM_MASKS = ("layerwise_shuffle", "random_mask")  # for supermasks; the first one that a run has is used


def matching(evidence: Evidence) -> list[Answer]:
    """ "Matches": the accuracy of the ticket is at most the margin below that of the dense network.

    Unit: percentage points of the endpoint, mean over seeds. Pairing: ticket and dense network of one seed. Test:
    one-sided, paired, H0: mean difference <= -margin (non-inferiority); for the reverse: more than the margin below.
    Alpha: one-sided, over all ladders. Correction: a fixed sequence down each ladder, from the least sparse rung on;
    Holm across ladders; for the reverse Holm over all comparisons. The primary comparison is with the dense network of
    as many epochs as the ticket (one level, or the whole fit); every other budget is a separate family. Source: Frankle
    & Carbin, arXiv 1803.03635, section 1 (commensurate accuracy); Piaggio et al. 2012, JAMA 308(24).
    """
    tests = evidence.tests
    return by_ladder(
        [_single("matches", c, b, tests.matches(c, b)) for c, b in _against(evidence, DENSE_KINDS)], evidence
    )  # fmt: skip


def beats_dense(evidence: Evidence) -> list[Answer]:
    """ "Beats": the accuracy of the ticket is above that of the dense network.

    Unit, pairing: as for `matching`. Test: one-sided, paired, H0: mean difference <= 0; for the reverse: below 0.
    Alpha: one-sided, over the family. Correction: Holm over all comparisons. Baselines: the dense network trained for T
    epochs (primary); for the total budget of all levels, once with a stretched schedule and once with the ticket's
    restarts under an all-ones mask; for other budgets. Source: Frankle & Carbin, arXiv 1803.03635, section 1 (tickets
    that exceed the original network).
    """
    tests = evidence.tests
    return by_holm([_single("beats", c, b, tests.beats(c, b)) for c, b in _against(evidence, DENSE_KINDS)], evidence)


def beats_controls(evidence: Evidence) -> list[Answer]:
    """ "Beats a control": the accuracy of the ticket is above that of its control, or of its baseline.

    Controls: a random mask over all layers; the mask shuffled within layers; a new initialisation; a shuffled mask with
    a new initialisation. Baselines: a small dense network of as many weights; the ticket's sparsity by one-shot
    pruning, learning-rate rewinding or fine-tuning. Unit, test, alpha: as for `beats_dense`. Pairing: ticket and
    control of one seed. Correction: Holm over all tickets, a separate family for each control or baseline. Source:
    Frankle & Carbin, arXiv 1803.03635, section 2 (reinitialisation); Su et al., arXiv 2009.11094 (shuffled masks);
    Renda et al., arXiv 2003.02389 (the methods).
    """
    tests = evidence.tests
    found = [(c, b) for c in evidence.candidates for b in (*c.controls, *c.of(SMALL_DENSE, *METHODS))]
    return by_holm([_single("beats", c, b, tests.beats(c, b)) for c, b in found], evidence)


def faster(evidence: Evidence) -> list[Answer]:
    """ "Faster": the rewound ticket reaches its least validation loss in fewer iterations than dense.

    Asked of tickets whose weights are rewound after a prune (weight rewinding, or within one fit). Others (fine-tuning,
    learning-rate rewinding, gradual schedules) have been trained before their last prune, so their clock is another.
    Unit: iterations from the initialisation: the k epochs before the rewind point are added. Pairing: as for
    `matching`. Test: one-sided, paired, H0: mean difference >= 0; for the reverse: above 0. If a validation loss was
    still falling when training ended, the early stop is censored, and the exact sign test decides. It counts the pairs
    that are certainly earlier, out of all pairs. Alpha: one-sided. Correction: Holm over all tickets. Source: Frankle &
    Carbin, arXiv 1803.03635, section 2 (early stop at the minimum of the validation loss).
    """
    tests = evidence.tests
    return by_holm([_single("faster", c, c.dense, tests.faster(c)) for c in _rewound(evidence)], evidence)


def winning(evidence: Evidence) -> list[Answer]:
    """ "Winning": at early stop the rewound ticket matches dense, stops no later, and beats its reinitialisation.

    Asked of the same tickets as `faster`, and iterations count as there. Unit: percentage points of test accuracy at
    early stop; iterations. Pairing: as for `matching`. Test: three
    one-sided paired tests: non-inferior by the margin; earlier than one validation interval after the dense network
    (the finest difference that early stops can show); above 0. Alpha: each test at alpha, without a correction
    (intersection-union: the largest p is that of the conjunction); for the reverse the least p times three. Correction:
    Holm over all tickets. Source: Frankle & Carbin, arXiv 1803.03635, section 1 (the hypothesis: commensurate accuracy,
    commensurate training time) and section 2 (random reinitialisation).
    """
    tests = evidence.tests
    questions = [
        Question(
            claim="winning", candidate=c, kind="dense", baseline=c.dense.name, baseline_group=c.dense.group,
            tests=(
                tests.matches_at_early_stop(c), tests.not_later(c), tests.beats_at_early_stop(c, _one(c, REINIT)),
            ),
        )
        for c in _rewound(evidence)
    ]  # fmt: skip
    return by_holm(questions, evidence)


def jackpot(evidence: Evidence) -> list[Answer]:
    """ "Jackpot": the ticket beats the reinitialisation of its mask at any learning rate, beats a small dense network,
    and matches dense.

    Tests: beats the reinitialisation of the same mask at each learning rate of the run (the one that suits that best
    among them) by more than the margin; beats the small dense network; matches the dense network of its own learning
    rate; matches that of the best learning rate. Best rates are chosen by mean validation accuracy. Unit: percentage
    points of the endpoint. Pairing: by seed. Test: one-sided, paired, for each. Alpha: each test at alpha, without a
    correction; for the reverse the least p times the number of tests. Correction: Holm over all tickets. Needs a run
    with several learning rates, and the reinitialisation at each of them (`--control-lr`). Source: Ma et al., arXiv
    2107.00166, section 3 (with a margin of 0.5 pp on CIFAR-10).
    """
    return by_holm(prize_questions("jackpot", _trained(evidence), evidence, BoundTests.matches), evidence)


def secondary_prize(evidence: Evidence) -> list[Answer]:
    """ "Secondary prize": as `jackpot`, except that the ticket falls short of the dense network of the best learning
    rate.

    Unit, pairing, test, alpha, correction, source: as for `jackpot`. The last test is that the ticket is below the
    dense network of the best learning rate by more than the margin. It is not tested for a ticket of the best learning
    rate itself: that would have to match a network and fall short of it.
    """
    return by_holm(prize_questions("secondary_prize", _trained(evidence), evidence, BoundTests.falls_short), evidence)


def supermask(evidence: Evidence) -> list[Answer]:
    """ "Supermask": an untrained network under its mask beats four kinds of chance.

    Tests: beats a random mask of equal layer densities, its own weights with shuffled signs, the majority class, and
    chance. Unit: percentage points of the endpoint. Pairing: by seed; for the last two with constants of the data set.
    Test: one-sided, paired, H0: mean difference <= 0. Alpha: each test at alpha, without a correction; for the reverse
    the least p times four. Correction: Holm over all supermasks. Source: Zhou et al., arXiv 1905.01067, section 5.
    """
    tests = evidence.tests
    questions = [
        Question(
            claim="supermask", candidate=c, kind=SEVERAL, baseline=SEVERAL,
            tests=(
                tests.beats(c, _one(c, *RANDOM_MASKS)), tests.beats(c, _one(c, SIGN_SHUFFLE)),
                tests.beats_constant(c, "majority_class_accuracy", "the majority class"),
                tests.beats_constant(c, "chance_accuracy", "chance"),
            ),
        )
        for c in evidence.candidates
        if c.group.spec["reset_end"]
    ]  # fmt: skip
    return by_holm(questions, evidence)


def largest_matching_sparsity(answers: Sequence[Answer], evidence: Evidence) -> list[dict[str, Any]]:
    """For each ladder the sparsest rung such that it and all rungs before it are shown to match, as rows of the table.

    Unit: target sparsity, percent. Pairing, test, alpha, correction: those of the primary answers of `matching`. It
    follows from them without another test: the fixed sequence makes it a lower bound at level 1 - alpha, for all
    ladders of the run at once. Yes if a rung matches; no if the first rung is shown to fall short. Source: Maurer,
    Hothorn & Lehmacher 1995; Westfall & Krishen 2001, J. Statist. Plann. Inference 99.
    """
    ladders: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for answer in sorted(answers, key=_is_baseline):
        if answer.question.claim == "matches" and answer.question.primary:
            group = answer.question.candidate.group
            ladders[group.role, group.ladder].append(answer)
    return [ladder_row(rungs, evidence) for rungs in ladders.values()]


CLAIMS: tuple[Callable[[Evidence], list[Answer]], ...] = (
    matching, beats_dense, beats_controls, faster, winning, jackpot, secondary_prize, supermask,
)  # fmt: skip


def verdicts(trials: Iterable[Row], rule: Rule) -> list[dict[str, Any]]:
    """Rows of verdicts.parquet from rows of trials.parquet (None for null): claim by claim, tickets before baselines,
    primary comparisons first.

    If the plan has interim looks, only the seeds of the last complete look count. While no look is complete, the seeds
    of the first look are described, but nothing is tested. Restored trials count nowhere: they would look like those of
    their fields.
    """
    rows = [row for row in trials if row.get("status") != RESTORED]
    taken = looks_taken(rows, rule.looks)
    if rule.looks:
        rows = [
            row for row in rows if row["seed"] is not None and row["seed"] < (taken or rule.looks)[-1 if taken else 0]
        ]
    evidence = Evidence(candidates=find_candidates(rows, rule.tuned), rule=rule, taken=taken)
    answers = [answer for claim in CLAIMS for answer in _by_kind(claim(evidence))]
    rows = [row_of(answer, evidence) for answer in answers]
    return [*map(dict, with_headlines(rows)), *largest_matching_sparsity(answers, evidence)]


def _single(claim: str, candidate: Candidate, baseline: Baseline, test: BoundTest) -> Question:
    return Question(
        claim=claim, candidate=candidate, tests=(test,), kind=baseline.kind, baseline=baseline.name,
        baseline_group=baseline.group,
    )  # fmt: skip


def _by_kind(answers: Sequence[Answer]) -> list[Answer]:
    """Tickets before baselines; within each, primary comparisons, then other dense networks, then the rest by kind."""
    kinds = [*DENSE_KINDS, *dict.fromkeys(answer.question.kind for answer in answers)]
    return sorted(answers, key=lambda answer: (_is_baseline(answer), kinds.index(answer.question.kind)))


def _is_baseline(answer: Answer) -> bool:
    return answer.question.candidate.group.role == BASELINE


def _against(evidence: Evidence, kinds: Iterable[str]) -> list[tuple[Candidate, Baseline]]:
    return [(c, b) for c in evidence.candidates for b in c.of(*kinds)]


def _trained(evidence: Evidence) -> list[Candidate]:
    """All candidates but supermasks, which end untrained and so have no early stop."""
    return [c for c in evidence.candidates if not c.group.spec["reset_end"]]


def _rewound(evidence: Evidence) -> list[Candidate]:
    """All candidates whose weights are rewound after a prune, so that their training counts from the initialisation."""
    return [c for c in evidence.candidates if has_clock(c.group.spec)]


def _one(candidate: Candidate, *kinds: str) -> Baseline:
    """The baseline of the first kind that the candidate has; if it has none, one of the first kind without trials."""
    found = [baseline for kind in kinds for baseline in candidate.of(kind)]
    return found[0] if found else Baseline(name=kinds[0], kind=kinds[0], group=None)
