"""`--split-seed seed`: each seed has a split of its own, through every door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lth_trainable.errors import UserError
from sweeps import Sweep
from sweeps.cli.options import parse
from sweeps.cli.search_options import parse as parse_search
from sweeps.experiments.expand import expand
from sweeps.experiments.recipe_files import as_yaml, read_recipe
from sweeps.search_from_python import Search

ARGUMENTS = ["digits", "--seed", "0", "3", "5", "--sparsity", "64", "--rewind-epoch", "0"]


def pairs_of(sweep: Any) -> set[tuple[int, int]]:
    return {(spec.seed, spec.split_seed) for spec in expand(sweep).trials}


OWN = {(0, 0), (3, 3), (5, 5)}


def test_each_seed_has_the_split_of_its_number_and_so_have_its_baselines_and_controls() -> None:
    _, sweep = parse([*ARGUMENTS, "--split-seed", "seed", "--controls", "reinit", "dense_again"])
    found = expand(sweep)
    assert pairs_of(sweep) == OWN and len(found.trials) == 12
    assert any("a replicate is a seed with its split" in note for note in found.notes)
    names = {spec.name for spec in found.trials if spec.seed == 3 and spec.control == "none"}
    assert names == {"digits-lenet_300_100-imp-s64-r0-split3-seed3"}


def test_numbers_are_settings_of_their_own_as_before() -> None:
    _, sweep = parse([*ARGUMENTS, "--split-seed", "0", "3"])
    assert pairs_of(sweep) == {(seed, split) for seed in (0, 3, 5) for split in (0, 3)}
    assert sweep.axes["split_seed"] == (0, 3)


def test_from_python_and_from_a_recipe_file(tmp_path: Path) -> None:
    sweep = Sweep("digits", sparsity=64, rewind_epoch=0, seeds=[0, 3, 5], split_seed="seed").recipe
    assert pairs_of(sweep) == OWN
    file = tmp_path / "mine.yaml"
    file.write_text(as_yaml(sweep), encoding="utf-8")
    assert pairs_of(read_recipe(file)) == OWN
    file.write_text("axes: {sparsity: [64]}\nbase: {split_seed: seed}\nseeds: [0, 3, 5]\n", encoding="utf-8")
    assert pairs_of(read_recipe(file)) == OWN


def test_a_search_has_the_split_of_each_seed_too() -> None:
    words = ["digits", "--seed", "0", "3", "5", "--sparsity", "50..90", "--split-seed", "seed", "--floor", "60"]
    _, search = parse_search(words)
    assert search.sweep.base["split_seed"] == "seed" and "split_seed" not in search.axes
    of_python = Search("digits", sparsity="50..90", seeds=[0, 3, 5], split_seed="seed").search
    for found in (search, of_python):
        base = {**found.sweep.base, "target_sparsity_pct": 64.0}
        sweep = type(found.sweep)(name="one", claim="", base=base, axes={"rewind_epoch": (0,)}, seeds=found.sweep.seeds)
        assert pairs_of(sweep) == OWN


@pytest.mark.parametrize("values", [["seed", "3"], ["own"], ["1.5"], ["-1"], ["True"]])
def test_what_is_no_split_is_one_line(values: list[str]) -> None:
    with pytest.raises(UserError, match=r"split.seed: found .*expected (a whole number, or seed|seed alone)"):
        expand(parse([*ARGUMENTS, "--split-seed", *values])[1])
    with pytest.raises(UserError, match=r"split.seed: found"):
        parse_search(["digits", "--sparsity", "50..90", "--split-seed", *values])
    with pytest.raises(UserError, match=r"split.seed: found"):
        Sweep("digits", split_seed=[_of_python(value) for value in values])


def _of_python(value: str) -> Any:
    return {"3": 3, "1.5": 1.5, "-1": -1, "True": True}.get(value, value)
