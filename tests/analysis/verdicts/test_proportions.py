"""What a margin is worth: bounds after a correction, test images, and dense against dense in another order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

import analysis
from analysis.report.proportion import again, margin
from analysis.tables.run_plan import Rule
from analysis.verdicts.claims import verdicts
from analysis.verdicts.headlines import headlines
from lth_trainable.spec.trial_spec import TrialSpec
from tests.support.records import DIGITS, dense, ladder, make_run, paired, plan, trial_rows
from tests.support.verdicts import SAME, Rows, judge, of, trials

# -- bounds after a correction -----------------------------------------------------------------------------------------


def drawn(seed: int, alpha: float, looks: tuple[int, ...] = ()) -> Rows:
    rng = np.random.default_rng(seed)
    seeds = 12 if looks else 6
    targets = {t: [float(x) for x in rng.normal(rng.choice([-2, -1, -0.3, 0, 0.5]), 0.7, seeds)] for t in (50, 64, 80)}
    rows = trials(targets, seeds=seeds)
    more = trial_rows(ladder(50, 80, seeds=seeds, schedule="omp", rewind_epoch=1), paired(94.6, targets))
    return verdicts([*rows, *more], Rule(margin_pp=1.0, alpha=alpha, looks=looks))


@pytest.mark.parametrize("looks", [(), (5, 8, 12)], ids=["once", "looks"])
def test_a_claim_is_shown_just_where_its_bound_is_beyond_what_is_asked(looks: tuple[int, ...]) -> None:
    """Of 12 runs with two ladders: after Holm, fixed sequences and looks the bounds say what the p values say."""
    seen = set()
    for seed in range(12):
        for row in drawn(seed, 0.025, looks):
            if row["claim"] not in ("matches", "beats") or row["test"] != "paired t":
                continue
            seen.add(row["verdict"])
            low, high, asked = row["decisive_low"], row["decisive_high"], row["bound"]
            near = min(abs(end - asked) for end in (low, high, 9) if end is not None) < 1e-3
            if near:
                continue
            assert (low is not None and low > asked) == (row["verdict"] == "yes"), row
            refuted = row["p_against_decisive"] is not None and row["p_against_decisive"] <= 0.025
            assert (high is not None and high < asked) == refuted, row
    assert seen == {"yes", "no", "undecided"}


def test_a_single_comparison_is_decided_by_the_interval_that_is_shown() -> None:
    (row,) = of(judge({50: SAME}, Rule(margin_pp=1.0)), "matches")
    interval = scipy_stats.ttest_1samp(SAME, 0).confidence_interval(0.95)
    ends = (row["decisive_low"], row["decisive_high"])
    assert ends == pytest.approx((interval.low, interval.high))
    assert ends == pytest.approx((row["ci_low"], row["ci_high"]))
    assert (row["alpha"], row["level"], row["level_against"]) == (0.025, 0.025, 0.025)


# -- the margin --------------------------------------------------------------------------------------------------------


def test_the_margin_stands_for_a_number_of_images() -> None:
    rows = headlines(judge({50: SAME}, Rule(margin_pp=1.0)))
    assert rows[0]["margin_images"] == pytest.approx(3.6)
    assert margin(rows) == "margin 1 pp = 3.6 of 360 images" and again(rows) == []


def test_dense_against_dense_is_beside_the_margin_and_in_no_verdict(tmp_path: Path) -> None:
    specs, other = [*dense(), *ladder(64)], dense(order_seed=1_000_000)
    planned = plan([*specs, *other])
    for entry in planned["trials"]:
        entry["role"] = "control" if "-order" in entry["name"] else "dense" if "-dense-" in entry["name"] else "ticket"

    def accuracy(spec: TrialSpec) -> float | None:
        return (DIGITS(spec) or 0) - (0.02 if spec.order_seed else 0)

    with_again = make_run(tmp_path / "a", [*specs, *other], accuracy, trials=planned["trials"])
    frames, alone = analysis.gather(with_again), analysis.gather(make_run(tmp_path / "b", specs, accuracy))
    rows, before = headlines(frames.rows("verdicts")), headlines(alone.rows("verdicts"))
    assert {name: rows[0][name] for name in before[0] if "again" not in name} == {
        name: before[0][name] for name in before[0] if "again" not in name
    }
    assert rows[0]["again_n_pairs"] == 5 and -3 < rows[0]["again_effect_pp"] < -1
    (sentence,) = again(rows)
    assert sentence.startswith("dense against dense in another order of the data: −")
    assert sentence in (with_again / "report.html").read_text()
    groups = {row["group"] for row in frames.rows("trials") if row["control"] == "dense"}
    assert groups == {"digits-lenet_300_100-dense", "digits-lenet_300_100-dense-dense_again"}
