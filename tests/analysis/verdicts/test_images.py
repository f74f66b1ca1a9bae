"""Verdicts over seeds and images: rows whose trials say which images they have right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analysis.report.lines import samples
from analysis.stats.crossed import CROSSED, crossed
from analysis.stats.paired import superiority, t_interval
from analysis.tables.run_plan import Rule
from analysis.verdicts.claims import verdicts
from lth_trainable.store.image_bits import pack, unpack
from tests.support.verdicts import Rows, of, trials

N, SEEDS = 360, 6


def with_images(rows: Rows, lost: list[int], shared: int, n: int = N) -> Rows:
    """The rows, each with the images that it has right: dense networks all but the last 7, tickets `lost` fewer by
    seed, of which the first `shared` are the same images for all seeds."""
    found = []
    for row in rows:
        right = np.arange(n) < n - 7
        if row["control"] == "none":
            own = [n // 36 * (row["seed"] + 1) + i for i in range(lost[row["seed"]] - shared)]
            right[[*range(shared), *own]] = False
        found.append({**row, "n_test": n, "test_right": np.packbits(right).tobytes(), "test_accuracy": right.mean()})
    return found


def differences(rows: Rows) -> Any:
    by_seed = {(row["control"], row["seed"]): unpack(row["test_right"], N) for row in rows}
    return np.stack([1.0 * by_seed["none", s] - by_seed["dense", s] for s in range(SEEDS)])


def judged(rows: Rows, margin: float = 2.0) -> dict[str, Any]:
    [row] = of(verdicts(rows, Rule(margin_pp=margin)), "matches")
    return row


def rows_of(lost: list[int], shared: int) -> Rows:
    return with_images(trials({64.0: [0.0] * SEEDS}, seeds=SEEDS), lost, shared)


def test_the_interval_and_p_that_decide_are_those_over_seeds_and_images() -> None:
    rows = rows_of([4, 3, 5, 3, 4, 2], shared=2)
    row, d = judged(rows), differences(rows)
    both, alone = crossed(d), t_interval(100 * d.mean(axis=1))
    assert alone is not None and row["test"] == CROSSED and row["n_images"] == N
    assert row["effect"] == pytest.approx(both.mean)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((both.interval().low, both.interval().high))
    assert (row["ci_low_over_seeds"], row["ci_high_over_seeds"]) == pytest.approx((alone.low, alone.high))
    assert row["p"] == pytest.approx(both.superiority(-2).p) and row["p"] > 2 * row["p_over_seeds"]
    assert row["p_over_seeds"] == pytest.approx(superiority(100 * d.mean(axis=1), -2).p)
    assert row["ci_low"] < row["ci_low_over_seeds"] and row["ci_high"] > row["ci_high_over_seeds"]


def test_the_same_images_lost_by_every_seed_match_on_these_images_and_not_on_others() -> None:
    """Five images of 360 are 1.39 pp, with no spread at all over seeds."""
    rows = rows_of([5, 5, 5, 5, 6, 5], shared=5)
    row = judged(rows)
    assert row["p_over_seeds"] < 0.001 and row["verdict"] == "undecided" and row["ci_low"] < -2


def test_the_wider_of_both_intervals_decides() -> None:
    """More degrees of freedom can make the crossed interval the narrower one."""
    for seed in range(200):
        lost = np.random.default_rng(seed).integers(2, 8, SEEDS).tolist()
        row = judged(rows_of(lost, shared=1))
        assert row["ci_low"] <= row["ci_low_over_seeds"] and row["ci_high"] >= row["ci_high_over_seeds"]
        assert row["p"] >= row["p_over_seeds"]


def test_trials_of_an_earlier_version_are_judged_over_seeds_alone_which_is_said() -> None:
    rows = rows_of([4, 3, 5, 3, 4, 2], shared=2)
    rows[0]["test_right"] = None  # one is enough
    row = judged(rows)
    assert row["test"] == "paired t" and row["n_images"] is None
    assert row["ci_low"] == row["ci_low_over_seeds"] and row["p"] == row["p_over_seeds"]
    assert samples([row]) == "over seeds alone, on these images"
    assert samples([judged(rows_of([4, 3, 5, 3, 4, 2], shared=2))]) == "over seeds and 360 images"


def test_a_diverged_ticket_has_each_image_right_by_chance() -> None:
    rows = rows_of([4, 3, 5, 3, 4, 2], shared=2)
    for row in rows:
        if row["control"] == "none" and row["seed"] == 2:
            row.update(status="diverged", test_accuracy=None, test_right=None)
    found = judged(rows)
    assert found["test"] == CROSSED and found["n_diverged"] == 1
    assert found["mean_ticket"] == pytest.approx(
        np.mean([0.1, *(1 - (7 + lost) / N for lost in [4, 3, 3, 4, 2])]), abs=1e-9
    )


def test_order_seeds_of_one_seed_count_as_their_mean() -> None:
    rows = rows_of([4, 3, 5, 3, 4, 2], shared=2)
    more = [{**row, "order_seed": 1, "test_right": pack_of(row)} for row in rows]
    row = judged([*rows, *more])
    assert row["n_pairs"] == SEEDS and row["test"] == CROSSED


def pack_of(row: dict[str, Any]) -> bytes:
    right = np.roll(unpack(row["test_right"], N), 1)
    assert len(pack(right)) == 60
    return np.packbits(right).tobytes()


def test_where_images_are_the_limit_more_seeds_are_not_promised() -> None:
    """Five to six images lost by all seeds: 1.4 pp with hardly a spread over seeds, and a margin of 2 pp."""
    row = judged(rows_of([5, 5, 5, 5, 6, 5], shared=5))
    assert (row["seeds_needed"], row["would_decide"]) == (None, "more test images")
    assert row["why"] == "more test images"


def test_images_make_the_number_of_seeds_larger() -> None:
    rows = with_images(trials({64.0: [0.0] * SEEDS}, seeds=SEEDS), [40, 30, 90, 0, 70, 10], shared=0, n=3600)
    old = [{**row, "test_right": None} for row in rows]
    both, alone = judged(rows, margin=1.8), judged(old, margin=1.8)
    assert both["seeds_needed"] > alone["seeds_needed"] > SEEDS
