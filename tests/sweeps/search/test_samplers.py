"""Samplers of a search: what each draws follows from the seed and the suggestions before it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from lth_trainable.errors import UserError
from lth_trainable.store.store import Store
from sweeps.cli.search_options import parse
from sweeps.experiments.recipes import digits
from sweeps.search.axes import Choice, Range, all_points
from sweeps.search.samplers import MAKERS
from sweeps.search.searches import GRID, SAMPLERS, Search
from sweeps.search.study import Study

RUN, OWN = "search", "tests.sweeps.search.test_samplers:quantiles"
SEARCH = Search(
    sweep=replace(digits(), name=RUN, seeds=(0,), base={"epochs": 2}, axes={}),
    axes={
        "target_sparsity_pct": Range(low=50.0, high=97.0), "schedule": Choice(values=("imp", "omp")),
        "prune_rate_pct": Choice(values=(20.0, 40.0)), "rewind_epoch": Range(low=0, high=1),
    },
    suggestions=24,
).check()  # fmt: skip


def quantiles(seed: int) -> optuna.samplers.BaseSampler:
    """A user's own sampler."""
    return optuna.samplers.QMCSampler(seed=seed, warn_independent_sampling=False)


def no_sampler(seed: int) -> int:
    return seed


def drawn(search: Search, folder: Path, restart: bool = False) -> list[dict[str, Any]]:
    """The points of a search whose accuracy is best at a sparsity of 80. restart: another process for each."""
    study, points = Study(search, Store(folder), RUN), []
    while study.n_told < search.suggestions:
        asked = study.ask()
        sparsity = asked.point["target_sparsity_pct"]
        study.note(asked.number, trials=[f"t{asked.number}"])
        study.tell(asked.number, {"accuracy": 1 - abs(sparsity - 80) / 100, "sparsity": sparsity})
        points.append(dict(asked.point))
        if restart:
            study = Study(search, Store(folder), RUN)
    return points


@pytest.mark.parametrize("sampler", [pytest.param("gp", marks=pytest.mark.slow), "nsga2", "random", OWN])
def test_a_search_in_many_processes_draws_what_one_process_draws(sampler: str, tmp_path: Path) -> None:
    search = replace(SEARCH, sampler=sampler, suggestions=10).check()
    points = drawn(search, tmp_path / "one")
    assert drawn(search, tmp_path / "many", restart=True) == points
    assert drawn(replace(search, sampler_seed=1), tmp_path / "seed") != points


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.slow), "nsga2"])
def test_samplers_that_learn_come_closer_to_the_best(sampler: str, tmp_path: Path) -> None:
    search = replace(SEARCH, sampler=sampler, objectives=("accuracy",), suggestions=30).check()
    off = [abs(point["target_sparsity_pct"] - 80) for point in drawn(search, tmp_path)]
    assert sum(off[-10:]) < 0.6 * sum(off[:10])


def test_a_grid_suggests_each_point_that_is_a_trial_once(tmp_path: Path) -> None:
    axes = {**SEARCH.axes, "target_sparsity_pct": Range(low=50.0, high=90.0, step=20.0)}
    search = replace(SEARCH, axes=axes, sampler=GRID, suggestions=1000).check()
    points = drawn(search, tmp_path, restart=True)
    expected = [
        {"target_sparsity_pct": s, "rewind_epoch": r, "schedule": schedule, **({"prune_rate_pct": p} if p else {})}
        for s, r in itertools.product((50.0, 70.0, 90.0), (0, 1))
        for schedule, p in (("omp", None), ("imp", 20.0), ("imp", 40.0))
    ]
    assert search.suggestions == len(points) == 18
    assert sorted(map(str, map(sorted, map(dict.items, points)))) == sorted(
        map(str, map(sorted, map(dict.items, expected)))
    )
    again = Study(search, Store(tmp_path), RUN)
    with pytest.raises(UserError, match="all 18 points of the grid"):
        again.ask()


def test_a_grid_leaves_out_what_is_no_valid_trial() -> None:
    axes = {"rewind_epoch": Range(low=0, high=9), "schedule": Choice(values=("iterative", "imp"))}
    points = all_points({"epochs": 8}, axes)
    assert {p["rewind_epoch"] for p in points if p["schedule"] == "imp"} == set(range(8))
    assert 0 < len([p for p in points if p["schedule"] == "iterative"]) < 8


def test_the_command_line_counts_the_points_of_a_grid() -> None:
    words = ["digits", "--sparsity", "64", "80", "90", "--schedule", "imp", "omp", "--sampler", "grid"]
    assert parse(words)[1].suggestions == 6
    assert parse([*words, "--suggestions", "4"])[1].suggestions == 4
    with pytest.raises(UserError, match=r"target_sparsity_pct: found '50..97'; expected values, or LOW..HIGH:STEP"):
        parse(["--sampler", "grid"])


def test_names_of_samplers() -> None:
    assert {*MAKERS, GRID} == set(SAMPLERS)
    with pytest.raises(UserError, match=r"sampler: found 'tp'; expected .*tpe"):
        replace(SEARCH, sampler="tp").check()


def test_a_function_that_makes_no_sampler(tmp_path: Path) -> None:
    study = Study(replace(SEARCH, sampler="tests.sweeps.search.test_samplers:no_sampler"), Store(tmp_path), RUN)
    with pytest.raises(UserError, match="a function of a seed that returns a sampler of Optuna"):
        study.ask()


def test_a_study_of_an_earlier_version_goes_on_with_tpe_only(tmp_path: Path) -> None:
    study = Study(SEARCH, Store(tmp_path), RUN)
    terms = study._study.user_attrs["terms"].replace('"sampler": "tpe", ', "")
    study._study.set_user_attr("terms", terms)
    assert 'sampler"' not in terms and Study(SEARCH, Store(tmp_path), RUN).n_told == 0
    with pytest.raises(UserError, match=r"its search began with sampler 'tpe'; found 'gp'"):
        Study(replace(SEARCH, sampler="gp"), Store(tmp_path), RUN)
