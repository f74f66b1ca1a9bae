"""Verdicts of a run in which each seed has a split of its own (`--split-seed seed`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analysis.labels import replicate_fields
from analysis.report.lines import samples
from analysis.report.set_up import set_up
from analysis.stats.crossed import CROSSED, crossed
from analysis.tables.run_plan import Rule
from analysis.verdicts.claims import verdicts
from analysis.verdicts.compare import compare
from analysis.verdicts.groups import pair_up
from lth_trainable.data.datasets import load_dataset
from lth_trainable.data.pools import held_by
from lth_trainable.spec.trial_spec import TrialSpec
from tests.support.records import trial_rows
from tests.support.verdicts import Rows, of

SEEDS, SIZES, POOL = 6, (1150, 287, 360), 1797
LOST = np.arange(7)  # images of the pool that every ticket has wrong, where they are in its test split


def specs_of(split: Any, seeds: range | None = None, **fields: Any) -> list[TrialSpec]:
    specs = []
    for seed in range(SEEDS) if seeds is None else seeds:
        common = {"seed": seed, "split_seed": split(seed), **fields}
        specs += [TrialSpec(control="dense", **common), TrialSpec(target_sparsity_pct=64.0, **common)]
    return specs


def rows_of(specs: list[TrialSpec], dataset: str = "digits") -> Rows:
    """Dense networks have 3 images wrong that are their seed's own, tickets also those of `LOST`."""
    found = []
    for row in trial_rows(specs, lambda spec: 0.9, dataset=dataset):
        held = held_by("digits", "test", SIZES, row["split_seed"])
        assert held is not None
        right = (np.arange(360) % 97 != row["seed"]) | np.isin(held.images, LOST)
        if row["control"] == "none":
            right &= ~np.isin(held.images, LOST)
        found.append({**row, "test_right": np.packbits(right).tobytes(), "test_accuracy": right.mean()})
    return found


def judged(rows: Rows) -> dict[str, Any]:
    [row] = of(verdicts(rows, Rule(margin_pp=2.0)), "matches")
    return row


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_images_of_a_split_are_those_that_the_data_set_gives(seed: int, split: str) -> None:
    held, first = held_by("digits", split, SIZES, seed), load_dataset("digits", None, seed)
    other = held_by("digits", split, SIZES, seed + 1)
    assert held is not None and other is not None and held.n == POOL
    labels = np.empty(POOL, np.int64)
    everything = load_dataset("digits", None, 0)
    for name in ("train", "valid", "test"):
        at = held_by("digits", name, SIZES, 0)
        assert at is not None
        labels[at.images] = getattr(everything, name).y
    assert np.array_equal(labels[held.images], getattr(first, split).y)
    assert 0 < len(np.intersect1d(held.images, other.images)) < len(held.images)


def test_each_seed_with_its_split_is_one_group_and_its_ticket_meets_the_dense_network_of_its_split() -> None:
    rows = rows_of(specs_of(lambda seed: seed))
    assert {row["group"] for row in rows} == {"digits-lenet_300_100-imp-s64-r0", "digits-lenet_300_100-dense"}
    assert "digits-lenet_300_100-imp-s64-r0-split3-seed3" in {row["trial"] for row in rows}
    row = judged(rows)
    assert row["n_pairs"] == SEEDS and row["group"] == "digits-lenet_300_100-imp-s64-r0"
    assert row["ladder"] == "digits-lenet_300_100-imp-r0" and row["baseline_group"] == "digits-lenet_300_100-dense"


def test_it_is_judged_over_seeds_and_all_images_that_a_seed_was_tested_on() -> None:
    rows = rows_of(specs_of(lambda seed: seed))
    row = judged(rows)
    tested = {i for seed in range(SEEDS) for i in _held(seed)}
    tickets, dense = ([row for row in rows if row["control"] == control] for control in ("none", "dense"))
    pairs = pair_up(tickets, dense, "test_accuracy", "dense")
    assert pairs.images is not None and pairs.images.shape == (SEEDS, POOL)
    for seed in range(SEEDS):
        assert set(np.flatnonzero(~np.isnan(pairs.images[seed]))) == set(_held(seed))
        assert np.nansum(pairs.images[seed]) == -len(np.intersect1d(_held(seed), LOST))
    assert row["test"] == CROSSED and row["n_images"] == len(tested) > 900
    assert samples([row]) == f"over seeds and {len(tested):,} images"
    found = crossed(pairs.images)
    assert row["effect"] == pytest.approx(found.mean) and found.of_images > 0


def _held(seed: int) -> Any:
    held = held_by("digits", "test", SIZES, seed)
    assert held is not None
    return held.images


@pytest.mark.parametrize(
    ("dataset", "n_images", "test"),
    [("mnist", 360, CROSSED), ("folder", None, "paired t"), ("own:data", None, "paired t")],
)
def test_a_test_split_that_never_changes_is_one_sample_and_one_that_may_have_changed_none(
    dataset: str, n_images: int | None, test: str
) -> None:
    row = judged(rows_of(specs_of(lambda seed: seed), dataset=dataset))
    assert row["n_images"] == n_images and row["test"] == test and row["n_pairs"] == SEEDS


def test_splits_that_do_not_follow_their_seeds_are_settings_of_their_own() -> None:
    rows = rows_of([spec for split in (0, 1) for spec in specs_of(lambda seed, split=split: split)])
    found = of(verdicts(rows, Rule(margin_pp=2.0)), "matches")
    assert [row["n_pairs"] for row in found] == [SEEDS, SEEDS]
    assert {row["group"] for row in found} == {f"digits-lenet_300_100-imp-s64-r0{end}" for end in ("", "-split1")}
    assert all(row["n_images"] == 360 for row in found)


def test_one_seed_alone_shows_nothing_of_its_split() -> None:
    one = specs_of(lambda seed: seed, range(3, 4))
    assert replicate_fields(spec.name for spec in one) == ("seed", "order_seed")
    two = [*one, *specs_of(lambda seed: seed, range(4, 5))]
    assert replicate_fields(spec.name for spec in two) == ("seed", "order_seed", "split_seed")
    fixed = [*one, *specs_of(lambda seed: 3, range(4, 5))]
    assert replicate_fields(spec.name for spec in fixed) == ("seed", "order_seed")


def test_two_runs_with_own_splits_are_compared_seed_by_seed() -> None:
    a, b = rows_of(specs_of(lambda seed: seed)), rows_of(specs_of(lambda seed: seed, lr=0.003))
    found = compare(a, b, "test_accuracy")
    assert [(row.kind, row.n_pairs) for row in found.comparisons] == [("tickets", SEEDS), ("dense", SEEDS)]
    assert [difference.column for difference in found.free] == ["lr"]


def test_the_set_up_table_says_that_each_seed_has_its_own() -> None:
    words = dict(set_up(rows_of(specs_of(lambda seed: seed)), []))["data"]
    assert words.endswith("360 test images (a split of its own for each seed)")
    assert dict(set_up(rows_of(specs_of(lambda seed: 5)), []))["data"].endswith("(split seed 5)")
