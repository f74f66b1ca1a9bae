"""Published figures held against synthetic runs of LeNet: each form of a claim in all its outcomes."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from analysis.__main__ import main
from analysis.figures.published import panels, published_figure
from analysis.published import estimates
from analysis.published.claims import Claim
from analysis.published.estimates import Fall, in_rounds
from analysis.published.holding import hold, standard_error
from analysis.published.points import COLUMNS, point_of, points
from analysis.stats.crossed import crossed
from analysis.stats.equivalence import (
    AGREES,
    DISAGREES,
    UNDECIDED,
    Estimate,
    Spread,
    judge,
    mean_of,
    minus_published,
    ratio_of,
)
from analysis.stats.paired import superiority, t_interval
from analysis.tables.index import write_noted
from analysis.tables.parquet import read_table
from analysis.tables.run_plan import Rule
from analysis.tables.schema import Row, table
from analysis.verdicts.groups import Pairs
from lth_trainable.errors import UserError
from lth_trainable.store.store import Store
from tests.support.published import LEVELS, MARGINS, lenet_run

RULE = Rule(margin_pp=0.2)
ALONE = {"quantity": "accuracy", "arm": "ticket", "fields": "schedule=imp reset_end=false"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = lenet_run(tmp_path_factory.mktemp("runs"))
    analysis.gather(folder)
    return folder


@pytest.fixture(scope="module")
def rows(run: Path) -> list[dict[str, Any]]:
    return analysis.load(run).rows("trials")


def claim(name: str, margin: float | None = None, **changes: Any) -> Claim:
    point = points()[name]
    values = {column: getattr(point, column) for column in COLUMNS} | changes
    return Claim(point=point_of("test", values), margin=MARGINS.get(name, 1.0) if margin is None else margin)


def held(rows: Any, name: str, margin: float | None = None, **changes: Any) -> dict[str, Any]:
    (row,) = hold([claim(name, margin, **changes)], rows, RULE)
    return row


def changed(rows: Any, control: str, target: float | None, **columns: Any) -> list[Row]:
    """The rows with other values in those of an arm, at a level or at all."""
    return [
        {**row, **columns} if row["control"] == control and target in (None, row["target_sparsity_pct"]) else row
        for row in rows
    ]


# -- the statistics ----------------------------------------------------------------------------------------------------


def test_an_interval_of_a_ratio_holds_just_what_a_paired_t_test_does_not_reject() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(3100, 200, 10), rng.normal(5000, 300, 10)
    found = ratio_of(x, y, 0.95)
    assert found.low is not None and found.high is not None and found.low < found.mean < found.high
    for end, side in ((found.low, 1), (found.high, -1)):
        assert superiority(side * (x - end * y)).p == pytest.approx(0.025, abs=1e-9)
    assert ratio_of(x, y - y.mean() + 1, 0.95).low is None, "a denominator that may be 0"


def test_a_published_variance_widens_the_interval_and_a_constant_does_not() -> None:
    ours = mean_of([1.0, 2.0, 3.0, 4.0, 5.0], 0.95)
    plain = minus_published(ours, 2.0, None, 0.95)
    interval = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval is not None and (plain.low, plain.high) == (interval.low - 2, interval.high - 2)
    # two equal samples of 5: Welch's interval, which is that of Student for 8 degrees of freedom
    error = math.sqrt(2.5 / 5)
    wide = minus_published(ours, 2.0, Spread(error=error, df=4), 0.95)
    assert wide.high == pytest.approx(1 + 2.306004 * math.sqrt(2) * error, abs=1e-5)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.9, 0.9, AGREES), (-1.1, 0.5, UNDECIDED), (1.01, 2.0, DISAGREES), (-9, -1.01, DISAGREES), (-2, 2, UNDECIDED)],
)
def test_agreement_is_an_interval_within_the_margin(low: float, high: float, expected: str) -> None:
    assert judge(Estimate(mean=(low + high) / 2, low=low, high=high), -1.0, 1.0) == expected


def test_the_chance_of_a_wrong_agreement_is_alpha() -> None:
    """The true difference is at the margin: the worst case of two one-sided tests."""
    rng = np.random.default_rng(0)
    wrong = [
        judge(mean_of(rng.normal(1.0, 0.3, 8), 0.95), -1.0, 1.0) == AGREES for _ in range(4000)
    ]  # a standard error of the share of 0.0025
    assert 0.017 < np.mean(wrong) < 0.033


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.5, AGREES), (0.0, 0.5, UNDECIDED), (-0.1, 0.5, UNDECIDED), (-0.5, -0.01, DISAGREES), (0, 0, DISAGREES)],
)
def test_a_bound_is_agreed_with_only_above_it(low: float, high: float, expected: str) -> None:
    """No margin below a bound: what is exactly at "more than" is not more."""
    assert judge(Estimate(mean=(low + high) / 2, low=low, high=high), 0.0, math.inf) == expected


# -- claims ------------------------------------------------------------------------------------------------------------


def test_a_run_that_is_as_published_agrees_with_every_claim(run: Path) -> None:
    found = {row["claim"]: row for row in analysis.load(run).rows("published")}
    assert {name: row["result"] for name, row in found.items()} == dict.fromkeys(MARGINS, AGREES)
    assert all(row["n"] == 8 and row["is_constant"] and row["confidence"] == 0.95 for row in found.values())
    early = found["lenet_early_stop_21"]
    assert early["weights_left_pct"] == 21.1 and early["weights_left_here_pct"] == pytest.approx(20.97, abs=0.05)
    assert early["difference"] == pytest.approx(early["here"] + 38) and abs(early["difference"]) < 4
    assert found["lenet_tickets_fall_below"]["here"] == pytest.approx(2.81, abs=0.02)


def test_the_change_of_the_early_stop_is_the_ratio_of_the_means(rows: list[dict[str, Any]]) -> None:
    tickets = [r["early_stop_iteration"] for r in rows if r["control"] == "none" and r["target_sparsity_pct"] == 79.03]
    dense = [r["early_stop_iteration"] for r in rows if r["control"] == "dense"]
    expected = 100 * (sum(tickets) / sum(dense) - 1)
    assert held(rows, "lenet_early_stop_21")["here"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "control", "target", "columns", "margin", "expected"),
    [
        ("lenet_early_stop_21", "none", 79.03, {"early_stop_from_init": 4900}, 10.0, DISAGREES),
        ("lenet_early_stop_21", "none", 79.03, {}, 2.0, UNDECIDED),
        ("lenet_accuracy_13", "none", 86.58, {"early_stop_test_accuracy": 0.97}, 0.0, DISAGREES),
        ("lenet_accuracy_13", "none", 86.58, {"early_stop_test_accuracy": 0.99}, 0.0, AGREES),
        ("lenet_accuracy_13", "none", 86.58, {}, 0.0, AGREES),
        ("lenet_back_to_dense_3.6", "none", 96.48, {"early_stop_test_accuracy": 0.99}, 0.2, DISAGREES),
        ("lenet_back_to_dense_3.6", "none", 96.48, {}, 0.05, UNDECIDED),
        ("lenet_reinit_speed_21", "reinit", 79.03, {"early_stop_from_init": 3000}, 0.5, DISAGREES),
        ("lenet_reinit_accuracy_21", "reinit", 79.03, {"early_stop_test_accuracy": 0.99}, 0.2, DISAGREES),
    ],
)
def test_a_claim_disagrees_or_stays_open(
    rows: list[dict[str, Any]], name: str, control: str, target: float, columns: Row, margin: float, expected: str
) -> None:
    assert held(changed(rows, control, target, **columns), name, margin)["result"] == expected


@pytest.mark.parametrize(
    ("gain_pp", "expected", "why"),
    [
        (0.5, AGREES, "all of the interval is above 0.3 pp"),
        (0.33, UNDECIDED, "0.3 pp lies within the interval"),
        (0.25, UNDECIDED, "0.3 pp lies within the interval"),
        (0.1, DISAGREES, "all of the interval is below 0.3 pp"),
    ],
)
def test_more_than_is_not_nearly_as_much(rows: list[dict[str, Any]], gain_pp: float, expected: str, why: str) -> None:
    """A gain of 0.25 pp, or of 0.1 pp, is no agreement with "more than 0.3 pp"."""
    dense = {row["seed"]: row["early_stop_test_accuracy"] for row in rows if row["control"] == "dense"}
    off = [0.1, -0.1] * 4  # pp, by seed
    gained = [
        {**row, "early_stop_test_accuracy": dense[row["seed"]] + (gain_pp + off[row["seed"]]) / 100}
        if row["control"] == "none" and row["target_sparsity_pct"] == 86.58
        else row
        for row in rows
    ]
    row = held(gained, "lenet_accuracy_13")
    assert (row["result"], row["why"], row["here"]) == (expected, why, pytest.approx(gain_pp))


def test_other_images_than_the_papers_are_a_sample_too(
    rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    outcomes = rng.choice([-1.0, 0.0, 0.0, 0.0, 1.0], (8, 200)) + rng.choice([0.0, 0.0, 0.0, 1.0], 200)
    outcomes = np.clip(outcomes, -1, 1)
    tickets = tuple(outcomes.mean(axis=1))
    pairs = Pairs(seeds=tuple(range(8)), tickets=tickets, others=(0.0,) * 8, images=outcomes)
    monkeypatch.setattr(estimates, "pairs_of", lambda point, level: pairs)
    same, other = (held(rows, "lenet_back_to_dense_3.6", images=images) for images in ("same", "other"))
    of_seeds, of_both = t_interval([100 * value for value in tickets]), crossed(outcomes).interval()
    assert of_seeds is not None
    assert (same["ci_low"], same["ci_high"]) == pytest.approx((of_seeds.low, of_seeds.high))
    assert (other["ci_low"], other["ci_high"]) == pytest.approx((of_both.low, of_both.high))
    assert other["ci_high"] - other["ci_low"] > 1.2 * (same["ci_high"] - same["ci_low"])
    unknown = replace(pairs, images=None)
    monkeypatch.setattr(estimates, "pairs_of", lambda point, level: unknown)
    assert held(rows, "lenet_back_to_dense_3.6", images="other")["ci_low"] == pytest.approx(of_seeds.low)


def test_where_tickets_fall_below_dense(rows: list[dict[str, Any]]) -> None:
    never = changed(rows, "none", None, early_stop_test_accuracy=0.99)
    row = held(never, "lenet_tickets_fall_below")
    assert (row["result"], row["here"], row["ci_low"]) == (DISAGREES, None, None)
    assert "from 1.4 % on at the earliest, from no level on at the latest" in row["why"]
    short = [row for row in never if row["control"] == "dense" or (row["target_sparsity_pct"] or 0) < 90]
    row = held(short, "lenet_tickets_fall_below", margin=2.0)
    assert (row["result"], row["ci_low"]) == (UNDECIDED, None), "13 % left, and not below: perhaps it is at 2.9 %"
    assert row["ci_high"] == pytest.approx(5.88, abs=0.05)
    always = held(changed(rows, "none", None, early_stop_test_accuracy=0.9), "lenet_tickets_fall_below")
    assert (always["result"], round(always["here"])) == (DISAGREES, 51)
    # a level in between that may be above or below leaves it open
    rng = np.random.default_rng(3)
    unclear = [
        {**row, "early_stop_test_accuracy": 0.98 + rng.normal(-0.001, 0.006)}
        if row["control"] == "none" and row["target_sparsity_pct"] in LEVELS[2:8]
        else row
        for row in rows
    ]
    row = held(unclear, "lenet_tickets_fall_below", margin=2.0)
    assert row["result"] == UNDECIDED and row["ci_low"] < 0 < row["ci_high"]


def test_a_distance_between_levels_is_in_rounds_of_twenty_percent() -> None:
    found = in_rounds(Fall(by_means=21.1 * 0.8, most=21.1 / 0.8, least=None, n=5), 21.1)
    assert (found.mean, found.high, found.low) == (pytest.approx(-1), pytest.approx(1), -math.inf)


def test_an_accuracy_alone_is_held_at_the_level_that_validation_chooses(rows: list[dict[str, Any]]) -> None:
    """A paper that names no weights left: the level is not chosen on the test accuracy that is compared."""
    chosen = [
        {**row, "valid_accuracy": 0.99 if row["target_sparsity_pct"] == 93.13 else 0.9, "test_accuracy": 0.8}
        if row["control"] == "none"
        else row
        for row in rows
    ]
    row = held(chosen, "supermask_mnist_raw", 2.0, **ALONE, at="early_stop")
    assert row["weights_left_here_pct"] == pytest.approx(6.87, abs=0.02)
    assert row["why"].endswith("level chosen on validation")
    at_the_end = held(chosen, "supermask_mnist_raw", 2.0, **ALONE)
    assert at_the_end["result"] == AGREES, "80 % at the end"
    assert row["result"] == DISAGREES and row["here"] == pytest.approx(98.2, abs=0.1)


def masks(seeds: int = 6, model: str = "lenet_300_100") -> list[Row]:
    """Rows of supermasks.parquet: 86 % on the test images where validation is best, more at another sparsity."""
    return [
        {
            "dataset": "mnist", "model": model, "seed": seed, "found": "one_shot", "criterion": "large_final_same_sign",
            "weights": weights, "round": number, "n_kept": 100, "weights_left_pct": left, "valid_accuracy": valid,
            "test_accuracy": test + 0.01 * (seed % 3 - 1) - (0.06 if weights == "initial" else 0),
            "majority_class_accuracy": 0.11,
        }
        for seed in range(seeds)
        for weights in ("initial", "signed_constants")
        for number, left, valid, test in ((3, 51.2, 0.8, 0.95), (7, 21.1, 0.9, 0.86))
    ]  # fmt: skip


def test_untrained_masks_are_held_at_the_sparsity_that_validation_chooses(rows: list[dict[str, Any]]) -> None:
    claims = [claim("supermask_mnist_signed", 3.0), claim("supermask_mnist_raw", 3.0)]
    few = [row for row in rows if row["seed"] < 6]
    signed, raw = hold(claims, few, RULE, masks())
    assert (signed["result"], raw["result"]) == (AGREES, AGREES)
    assert (signed["here"], raw["here"]) == (pytest.approx(86), pytest.approx(80))
    assert signed["weights_left_here_pct"] == 21.1 and signed["n"] == 6
    (incomplete, _) = hold(claims, rows, RULE, masks())
    assert incomplete["result"] == UNDECIDED and "no masks of seed 6, 7" in incomplete["why"]
    (absent, _) = hold(claims, rows, RULE)
    assert absent["result"] == "not in this run" and "python -m analysis supermasks" in absent["why"]
    of_any = claim("supermask_mnist_signed", 3.0, network=None)
    assert len(hold([of_any], [], RULE, [*masks(), *masks(model="conv_2")])) == 2, "a row for each network"


@pytest.mark.usefixtures("without_report")
def test_the_next_gather_holds_masks_that_were_measured_after_the_run(tmp_path: Path) -> None:
    run = lenet_run(tmp_path, seeds=6, margins={"supermask_mnist_signed": 3.0})
    assert [row["result"] for row in analysis.gather(run).rows("published")] == ["not in this run"]
    filled: Row = {"run": "run", "trial": "t", "n_weights": 200, "n_valid": 10, "n_test": 10, "device": "cpu"}
    write_noted(Store(tmp_path), "run", "supermasks", table("supermasks", ({**filled, **row} for row in masks())))
    frames = analysis.gather(run)
    assert [row["result"] for row in frames.rows("published")] == [AGREES]
    (panel,) = panels(frames)
    assert [round(left, 1) for left, _ in next(iter(panel.curves.values()))] == [51.2, 21.1]
    assert published_figure(frames) is not None


def test_a_dense_network_is_held_once_for_each_ladder(rows: list[dict[str, Any]]) -> None:
    dense = {**ALONE, "arm": "dense", "fields": ""}
    row = held(rows, "supermask_mnist_raw", 1.0, **dense, value=98.0, spread=0.2, spread_kind="sd", n=20)
    assert (row["result"], row["weights_left_here_pct"], row["is_constant"]) == (AGREES, 100.0, False)
    assert "validation" not in row["why"]
    assert held(rows, "supermask_mnist_raw", 1.0, **{**dense, "arm": "dense-e55"}, value=98.0)["result"] == AGREES
    assert (
        held(rows, "supermask_mnist_raw", 1.0, **{**dense, "arm": "dense-e5"})["why"] == "no dense-e5 of these tickets"
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"data": "cifar10"}, "no trials of lenet_300_100 on cifar10"),
        ({"fields": "schedule=omp"}, "no tickets of lenet_300_100 on mnist with schedule=omp"),
        ({"arm": "random_mask"}, "no random mask of these tickets"),
        ({"weights_left_pct": 60.0}, "no level near 60 % of the weights; it has 51 to 1.8 % left"),
    ],
    ids=["data", "fields", "arm", "level"],
)
def test_what_the_run_does_not_have_is_said(rows: list[dict[str, Any]], changes: Row, why: str) -> None:
    row = held(rows, "lenet_early_stop_21", **changes)
    assert (row["result"], row["why"], row.get("here")) == ("not in this run", why, None)


def test_an_incomplete_run_decides_nothing(rows: list[dict[str, Any]]) -> None:
    few = [row for row in rows if row["seed"] < 4]
    assert "4 pairs; nothing is decided with fewer than 5" in held(few, "lenet_early_stop_21")["why"]
    lost = [{**row, "status": "missing"} if row["seed"] == 3 and row["control"] == "none" else row for row in rows]
    for name in ("lenet_early_stop_21", "lenet_tickets_fall_below"):
        row = held(lost, name)
        assert row["result"] == UNDECIDED and "ticket missing (seed 3)" in row["why"]
    late = changed(rows, "none", 79.03, early_stop_censored=True)
    row = held(late, "lenet_early_stop_21")
    assert row["result"] == UNDECIDED and "8 of 8 early stops are only lower bounds" in row["why"]
    assert (row["here"], row["difference"], row["ci_low"]) == (None, None, None)
    diverged = [
        {**row, "status": "diverged", "early_stop_from_init": None} if row["seed"] == 3 else row for row in rows
    ]
    assert held(diverged, "lenet_early_stop_21")["result"] == UNDECIDED


def test_each_ladder_of_a_run_has_a_row(rows: list[dict[str, Any]]) -> None:
    plain = [row for row in rows if row["control"] != "reinit"]
    other = [{**row, "lr": 0.01, "ladder": "other", "trial": f"{row['trial']}-x"} for row in plain]
    found = hold([claim("lenet_early_stop_21")], [*rows, *other], RULE)
    assert [row["ladder"] for row in found] == [plain[-1]["ladder"], "other"]


@pytest.mark.parametrize(
    ("spread", "expected"),
    [
        ({"spread": 0.4, "spread_kind": "sd", "n": 4}, Spread(error=0.2, df=3)),
        ({"spread": 0.4, "spread_kind": "se", "n": 4}, Spread(error=0.4, df=3)),
        ({"spread": 0.4, "spread_kind": "se"}, Spread(error=0.4, df=math.inf)),
        ({"spread": 1.959964, "spread_kind": "ci95"}, Spread(error=pytest.approx(1), df=math.inf)),
        ({"spread": 0.4, "spread_kind": "sd"}, None),
        ({"spread": 0.4, "spread_kind": "range", "n": 5}, None),
        ({}, None),
    ],
    ids=["sd", "se", "se-no-n", "ci95", "sd-no-n", "range", "none"],
)
def test_a_published_spread_counts_if_its_number_of_trials_is_known(spread: Row, expected: Spread | None) -> None:
    found = claim("lenet_early_stop_21", **spread)
    assert standard_error(found) == expected
    assert (found.constant_because is None) == (expected is not None)


# -- the command and the report ----------------------------------------------------------------------------------------


def test_the_command_prints_every_claim_and_what_it_was_held_with(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["published", str(run)]) == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 100 for line in text.splitlines()[:8])
    assert re.search(r"lenet_reinit_speed_21 +21.1 / 21.0 +2.51 times", text)
    assert "held against 7 published figures: 7 agree." in text
    assert "fixed in the plan, before the first trial" in text and "count as constants" in text


def test_the_command_as_json_has_the_rows_of_the_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stored = read_table(Store(run.parent), run.name, "published")
    assert found["fixed"] is True and stored is not None and found["rows"] == stored.to_pylist()


@pytest.mark.usefixtures("without_report")
def test_margins_that_are_chosen_afterwards_are_told_and_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = lenet_run(tmp_path, seeds=2, margins={})
    assert main(["published", str(run)]) == 2
    assert "found no claims in its plan" in capsys.readouterr().err
    assert main(["published", str(run), "--margin", "lenet_early_stop_21=10", "supermask_mnist_raw=2"]) == 0
    text = capsys.readouterr().out
    assert "not fixed before the run, so nothing is written" in text and "not in this run: supermask_mnist_raw" in text
    assert analysis.load(run).rows("published") == []
    for wrong in ("lenet_early_stop_21", "lenet_early_stop_21=far", "what=3", "lenet_early_stop_21=-1"):
        assert main(["published", str(run), "--margin", wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["published", str(run), "--margin", "lenet_early_stop_21=10", "lenet_early_stop_21=20"]) == 2
    assert "found two margins for lenet_early_stop_21" in capsys.readouterr().err


def test_margins_beside_those_of_the_plan_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", str(run), "--margin", "lenet_early_stop_21=50"]) == 2
    assert "has fixed its own before the first trial" in capsys.readouterr().err


def test_the_list_needs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", "--list", "--json"]) == 0
    assert [entry["claim"] for entry in json.loads(capsys.readouterr().out)] == list(points())
    assert main(["published"]) == 2


def test_the_report_has_the_figures_beside_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (run / "report.html").read_text()
    assert page.count('id="published"') == 1 and page.count('id="figure-published"') == 1
    assert "tickets reach the early stop 38 % earlier" in page and "arXiv 1803.03635" in page


def test_a_run_without_claims_has_no_such_part(tmp_path: Path) -> None:
    run = lenet_run(tmp_path, seeds=2, margins={})
    frames = analysis.gather(run)
    assert frames.rows("published") == [] and published_figure(frames) is None
    assert 'id="published"' not in (run / "report.html").read_text()


def test_the_figure_has_the_runs_curve_and_every_published_point(run: Path) -> None:
    frames = analysis.load(run)
    found = {(panel.point.quantity, panel.point.against): panel for panel in panels(frames)}
    assert list(found) == [
        ("early_stop_change", "dense"), ("accuracy_difference", "dense"), ("early_stop_ratio", "ticket"),
        ("accuracy_difference", "ticket"),
    ]  # fmt: skip
    assert sum(len(panel.rows) for panel in found.values()) == len(MARGINS)
    accuracy = found["accuracy_difference", "dense"]
    assert {arm for arm, _ in accuracy.curves} == {"ticket", "reinit"}
    assert all(len(curve) == len(LEVELS) for curve in accuracy.curves.values())
    figure = published_figure(frames, "dark")
    assert figure is not None and len(figure.axes) == 4


@pytest.mark.usefixtures("without_report")
def test_a_plan_with_a_claim_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, published in enumerate(
        ([{"claim": 3}], ["x"], [{**good(), "quantity": "speed"}], [{**good(), "n": {}}])
    ):
        run = lenet_run(tmp_path / str(number), seeds=1, margins={}, published=published)
        with pytest.raises(UserError, match="published"):
            analysis.gather(run)
        assert main([str(run)]) == 2 and capsys.readouterr().err.count("\n") == 1


def good() -> dict[str, Any]:
    return claim("lenet_early_stop_21").as_json()
