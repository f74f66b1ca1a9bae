from __future__ import annotations

from dataclasses import replace

import pytest

from lth_trainable.errors import UserError
from sweeps.cli.options import parse
from sweeps.experiments.expand import expand, seed_values
from sweeps.experiments.recipes import RECIPES, Sweep, find_recipe


def sweep(**changes: object) -> Sweep:
    return replace(find_recipe("digits"), **{"controls": (), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_expand_to_uniquely_named_trials_with_their_baselines(name: str) -> None:
    found = find_recipe(name)
    trials = expand(found).trials
    assert found.name == name and len({t.name for t in trials}) == len(trials)
    assert RECIPES[name].__doc__ and "Source:" in RECIPES[name].__doc__
    assert {t.seed for t in trials if t.is_dense} == set(found.seeds)


def test_the_digits_grid_is_the_papers_shape() -> None:
    expanded = expand(find_recipe("digits"))
    assert len(expanded.trials) == 8 * (3 * 2 * 2 + 1) and expanded.epochs == 8968
    assert sum(trial.control == "reinit" for trial in expanded.trials) == 8 * 3 * 2


def test_the_tutorials_grid_has_dense_20_and_dense_5() -> None:
    trials = expand(find_recipe("digits_tutorial")).trials
    assert sorted({t.epochs for t in trials if t.is_dense}) == [5, 20] and len(trials) == 5 * (8 + 2)


def test_seeds_come_in_order_and_within_a_seed_the_longest_first() -> None:
    trials = expand(sweep(seeds=(3, 0))).trials
    assert [t.seed for t in trials] == [3] * 7 + [0] * 7
    assert [t.epochs_alone() for t in trials[:7]] == sorted((t.epochs_alone() for t in trials[:7]), reverse=True)


def test_axes_that_do_not_act_do_not_multiply_trials() -> None:
    axes = {"schedule": ("imp", "agp"), "rewind_epoch": (0, 1), "target_sparsity_pct": (64.0,)}
    expanded = expand(sweep(axes=axes, seeds=(0,)))
    assert [t.name for t in expanded.trials if t.schedule == "agp"] == ["digits-lenet_300_100-agp-s64-seed0"]
    assert len(expanded.trials) == 2 + 1 + 1 and any("counted once" in note for note in expanded.notes)


def test_targets_that_snap_to_one_rung_are_one_trial_and_it_is_said() -> None:
    expanded = expand(sweep(axes={"target_sparsity_pct": (90.0, 92.22)}, seeds=(0,)))
    assert [t.target_sparsity_pct for t in expanded.trials] == [92.22, None]
    assert any("90 % is between rungs" in note for note in expanded.notes)


def test_each_optimisation_has_its_own_baseline() -> None:
    expanded = expand(sweep(axes={"lr": (1e-3, 1e-2), "target_sparsity_pct": (64.0, 78.4)}, seeds=(0,)))
    assert sorted(t.lr for t in expanded.trials if t.is_dense) == [1e-3, 1e-2]


def test_an_order_seed_is_a_coordinate_of_its_own() -> None:
    axes = {"target_sparsity_pct": (64.0,), "order_seed": (0, 1)}
    trials = expand(sweep(axes=axes, seeds=(0, 1, 2))).trials
    orders = {(t.seed, t.seed if t.order_seed is None else t.order_seed) for t in trials if not t.is_dense}
    assert orders == {(seed, order) for seed in (0, 1, 2) for order in (0, 1)}
    assert len(trials) == len({t.name for t in trials}) == 12


def test_targets_within_the_tolerance_of_a_rung_are_that_rung() -> None:
    trials = expand(sweep(axes={"target_sparsity_pct": (92.22, 92.224, 92.23)}, seeds=(0,))).trials
    assert [t.target_sparsity_pct for t in trials] == [92.22, None]


def test_an_axis_that_acts_nowhere_is_named() -> None:
    expanded = expand(sweep(axes={"target_sparsity_pct": (64.0,), "prune_steps": (5,)}, seeds=(0,)))
    assert "prune_steps has no effect in any trial of this sweep" in expanded.notes


def test_a_prune_at_the_start_has_no_dense_part_before_it() -> None:
    found = replace(find_recipe("digits_tutorial"), seeds=(0,))
    trials = expand(
        replace(found, base={"schedule": "iterative", "start_pct": 0.0}, axes={"rewind_epoch": (0,)})
    ).trials
    assert sorted({t.epochs for t in trials if t.is_dense}) == [20]


@pytest.mark.parametrize(("seeds", "message"), [((), "at least one seed"), ((1, 2, 1), "repeated: 1")])
def test_bad_seeds(seeds: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        expand(sweep(seeds=seeds))


def test_seeds_by_count_or_by_number() -> None:
    assert seed_values(3, (), (9,)) == (0, 1, 2)
    assert seed_values(None, (0, 3, 7), (9,)) == (0, 3, 7)
    assert seed_values(None, (), (9,)) == (9,)
    with pytest.raises(UserError, match="found both"):
        seed_values(3, (1,), (9,))
    with pytest.raises(UserError, match="at least 1"):
        seed_values(0, (), (9,))


def test_the_command_line_changes_the_axes_of_a_recipe() -> None:
    options, found = parse(
        ["digits_tutorial", "--sparsity", "50", "80", "--schedule", "iterative", "agp", "--rewind-epoch", "0", "--seed",
         "4", "2", "--epochs", "12", "--lr", "0.001", "--criteria", "large_final", "random", "--storage", "elsewhere"]
    )  # fmt: skip
    assert options.storage == "elsewhere" and found.seeds == (4, 2)
    assert found.base == {"start_pct": 0.25}
    assert found.axes == {
        "target_sparsity_pct": (50.0, 80.0), "rewind_epoch": ("0",), "schedule": ("iterative", "agp"), "epochs": (12,),
        "lr": (0.001,), "criterion": ("large_final", "random"),
    }  # fmt: skip
    assert parse([])[1] == find_recipe("digits")


@pytest.mark.parametrize("arguments", [["--no-such-flag"], ["--mps", "maybe"]])
def test_malformed_flags_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2 and arguments[-1] in "".join(capsys.readouterr())


@pytest.mark.parametrize("arguments", [["--sparsity", "abc"], ["--seeds", "two"]])
def test_words_in_place_of_numbers_are_refused(arguments: list[str]) -> None:
    with pytest.raises(UserError, match=f"{arguments[0]}: found '{arguments[1]}'; expected a "):
        parse(arguments)


def test_a_flag_without_a_value_is_refused() -> None:
    with pytest.raises(UserError, match="--sparsity"):
        parse(["--sparsity"])
