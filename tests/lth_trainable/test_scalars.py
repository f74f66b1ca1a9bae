"""NumPy's numbers are taken wherever a number is, and leave no trace in keys, JSON and equality."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.tables.run_plan import Rule
from lth_trainable import Levels, Schedule, SparsifyCallback, TrialSpec, UserError, sched_iterative
from lth_trainable.errors import check_sparsity, is_finite_number
from lth_trainable.scalars import plain
from lth_trainable.tune.config import Ticket
from sweeps import Search, Sweep
from sweeps.experiments.expand import expand
from sweeps.experiments.recipes import digits
from sweeps.search.axes import Choice, Range

SAME: list[tuple[Any, Any]] = [
    (np.int64(80), 80), (np.uint8(80), 80), (np.float64(0.1), 0.1), (np.float32(0.1), 0.1), (np.float16(0.1), 0.1),
    (np.float32(1e-8), 1e-8), (np.float32(87.04), 87.04), (np.longdouble("0.1"), 0.1), (np.array(80), 80),
    (np.array(0.1, dtype=np.float32), 0.1), (np.bool_(True), True), (np.str_("imp"), "imp"),
    (pd.Series([80.5]).iloc[0], 80.5), (np.linspace(50, 90, 5)[1], 60.0),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), SAME, ids=[f"{n}" for n in range(len(SAME))])
def test_a_scalar_becomes_pythons_own(value: Any, expected: Any) -> None:
    assert plain(value) == expected and type(plain(value)) is type(expected)


@pytest.mark.parametrize("value", [np.float32("nan"), np.float32("inf"), np.float64("-inf")], ids=str)
def test_what_is_not_finite_stays_so(value: Any) -> None:
    assert type(plain(value)) is float and not is_finite_number(value)


@pytest.mark.parametrize("value", [np.array([80.0]), [80], "80", None, np.datetime64(5, "ns"), 80], ids=repr)
def test_all_else_stays_as_it_is(value: Any) -> None:
    assert plain(value) is value


FIELDS: dict[str, Any] = {
    "target_sparsity_pct": 87.04, "prune_rate_pct": 20, "lr": 0.0012, "epochs": 3, "batch_size": 60, "seed": 4,
    "rewind_epoch": 1, "momentum": 0.9, "schedule": "imp",
}  # fmt: skip
TYPES: dict[type, Callable[[Any], Any]] = {int: np.int32, float: np.float32, str: np.str_}


def as_numpy(value: Any) -> Any:
    return TYPES[type(value)](value)


@pytest.mark.parametrize("make", [as_numpy, lambda value: np.array(as_numpy(value))], ids=["scalar", "array"])
def test_a_trial_of_numpys_values_is_the_same_trial(make: Callable[[Any], Any]) -> None:
    spec, given = TrialSpec(**FIELDS), {name: make(value) for name, value in FIELDS.items()}
    for other in (TrialSpec(**given), Ticket.of(given).spec, replace(spec, **given)):
        assert other == spec and other.name == spec.name and other.key("d") == spec.key("d")
        assert json.dumps(other.values) == json.dumps(spec.values)
        assert list(map(type, other.values.values())) == list(map(type, spec.values.values()))


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("several", [list, tuple, np.array], ids=["list", "tuple", "array"])
def test_several_values_where_one_is_meant_get_a_hint(name: str, several: Callable[[Any], Any]) -> None:
    with pytest.raises(UserError, match=r"one value; for several values .* tune\.grid_search"):
        TrialSpec(**{name: several([FIELDS[name]] * 2)})
    with pytest.raises(UserError, match=r"Sweep\(sparsity=\[50, 80\]\)"):
        check_sparsity("sparsity", several([50, 80]))


def test_a_number_of_numpy_that_is_wrong_is_told_as_a_number() -> None:
    with pytest.raises(UserError, match=r"found 0.8; .* did you mean 80"):
        TrialSpec(target_sparsity_pct=np.float32(0.8))
    with pytest.raises(UserError, match="epochs: found True; expected a whole number"):
        TrialSpec(epochs=np.bool_(True))
    with pytest.raises(UserError, match="lr: found nan"):
        TrialSpec(lr=np.float32("nan"))


def test_a_callback_takes_them() -> None:
    callback = SparsifyCallback(
        np.float32(87.04), "weight", "local", "large_final", Schedule(sched_iterative, np.float32(0.2)),
        rewind_epoch=np.int64(1), seed=np.uint8(3),
    )  # fmt: skip
    found = (callback.sparsity, callback.rewind_epoch, callback.seed, callback.schedule.start_pct)
    assert json.dumps(found) == "[87.04, 1, 3, 0.2]"
    layers = SparsifyCallback({"0": np.int64(50)}, "weight", "local", "large_final", Schedule(sched_iterative))
    assert layers.sparsity == {"0": 50} and type(layers.sparsity["0"]) is int  # type: ignore[index,call-overload]
    assert Levels(prune_rate=np.float32(20.1), n_levels=np.int64(3)) == Levels(prune_rate=20.1, n_levels=3)
    for schedule in (Schedule(sched_iterative), None):
        with pytest.raises(UserError, match="for several values"):
            SparsifyCallback(np.array([50, 80]), "weight", "local", "large_final", schedule)


def test_sweeps_searches_and_rules_take_them() -> None:
    recipe = replace(
        digits(), seeds=np.arange(2), margin_pp=np.float32(0.1), base={"lr": np.float32(0.1)},
        axes={"target_sparsity_pct": np.array([50, 80], dtype=np.float32), "rewind_epoch": [np.int64(0)]},
    )  # fmt: skip
    own = replace(digits(), seeds=(0, 1), margin_pp=0.1, base={"lr": 0.1},
                  axes={"target_sparsity_pct": (50.0, 80.0), "rewind_epoch": (0,)})  # fmt: skip
    assert recipe == own and repr(recipe) == repr(own) and expand(recipe) == expand(own)
    assert Sweep(recipe).recipe == Sweep(own).recipe
    assert repr(Sweep(lr=np.float32(0.1), seeds=np.int8(2)).recipe) == repr(Sweep(lr=0.1, seeds=2).recipe)
    assert repr(Search(lr=np.array([0.1, 0.2], dtype=np.float32)).search) == repr(Search(lr=[0.1, 0.2]).search)
    assert repr(Rule(margin_pp=np.float32(0.1), alpha=np.float64(0.01))) == repr(Rule(margin_pp=0.1, alpha=0.01))
    assert repr(Range(low=np.int64(1), high=np.int64(4))) == repr(Range(low=1, high=4))
    assert repr(Choice(values=np.array([0.1], dtype=np.float32))) == repr(Choice(values=(0.1,)))
