"""Arguments as people give them: partials, objects, functions, names, lists, and numbers of NumPy and torch."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastai.callback.schedule import SchedCos, sched_cos
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from torch import Tensor, nn

from lth_trainable import (
    Levels,
    Schedule,
    SparsifyCallback,
    UserError,
    find_tickets,
    large_final,
    load_ticket,
    one_shot,
    save_ticket,
    sched_agp,
    sched_iterative,
)
from lth_trainable.contracts import CONTRACTS, what_breaks
from lth_trainable.pruning.criteria import Weights, is_same, uses_inputs
from lth_trainable.pruning.layers import prunable_layers
from tests.plugins import tiny_cnn
from tests.support.callback import silent, tensors


def power(w: Weights, p: float = 1) -> Tensor:
    return w.now.abs() ** p


@uses_inputs
def weighed(w: Weights, p: float = 1) -> Tensor:
    assert w.inputs is not None
    return (w.now.abs() * w.inputs) ** p


@dataclass
class Power:
    """A criterion that is an object; it cannot be hashed."""

    p: float

    def __call__(self, w: Weights) -> Tensor:
        return w.now.abs() ** self.p

    def scores(self, w: Weights) -> Tensor:
        return self(w)


squared, as_object = partial(power, p=2), Power(2)


def learner() -> Learner:
    """A network on so few images that a fit takes no time."""
    torch.manual_seed(0)
    items = [(torch.rand(1, 8, 8), torch.tensor(index % 10)) for index in range(16)]
    dls = DataLoaders(*(DataLoader(items, bs=8) for _ in range(2)))
    learn = Learner(dls, tiny_cnn((1, 8, 8), 10), loss_func=nn.CrossEntropyLoss())
    learn.remove_cbs([cb for cb in learn.cbs if type(cb).__name__ == "ProgressCallback"])
    learn.logger = silent
    return learn


def pruned(schedule: Any = one_shot) -> Learner:
    learn = learner()
    learn.fit(2, 1e-2, cbs=SparsifyCallback(50, "weight", "local", large_final, schedule, verbose=False))
    return learn


def counts(learn: Learner) -> dict[str, int]:
    return dict(learn.keep_mask.pruner.counts)


@pytest.mark.parametrize(
    ("criterion", "name"),
    [
        (squared, "power(p=2)"), (as_object, "Power"), (as_object.scores, "scores"), (partial(as_object), "Power()"),
        (partial(partial(power), p=2), "power(p=2)"), (partial(weighed, p=2), "weighed(p=2)"),
    ],
    ids=["partial", "object", "method", "partial of an object", "partial of a partial", "partial that needs inputs"],
)  # fmt: skip
def test_criteria_that_are_no_plain_functions(criterion: Any, name: str, tmp_path: Path) -> None:
    learn, cb = learner(), SparsifyCallback(50, "weight", "local", criterion, one_shot, verbose=False)
    learn.fit(2, 1e-2, cbs=cb)
    assert learn.sparsity == pytest.approx(50, abs=0.01)
    assert load_ticket(save_ticket(cb.ticket(), tmp_path / "ticket")).provenance["criterion"] == name
    assert pickle.loads(pickle.dumps(cb)).pruner.counts == cb.pruner.counts
    assert not [said for contract in CONTRACTS["criterion"] if (said := what_breaks(contract, squared))]


class Unfinished:
    def __call__(self, w: Weights, g: str) -> Tensor:
        return w.now


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (partial(power, q=2), r"criteria: power\(q=2\) raises TypeError: .*'q'; expected a function of Weights"),
        (Unfinished(), r"criteria: Unfinished raises TypeError: .*'g'; expected"),
        (Power, r"criteria: Power returns a Power for weights \(6, 1, 3, 3\); expected"),
        (torch.abs, r"criteria: abs raises TypeError"),
        (lambda w: w.now.abs().numpy(), r"returns a ndarray for weights"),
        (lambda w: w.now.abs().mean(), r"returns a tensor \(\) for weights"),
        (3, r"criteria: found 3; expected a function such as large_final, or its name"),
    ],
    ids=["wrong argument", "two arguments", "a class", "of tensors", "an array", "one number", "a number"],
)
def test_what_gives_no_scores_is_refused_before_the_fit(criterion: Any, message: str) -> None:
    learn = learner()
    before = tensors(learn.model)
    with pytest.raises(UserError, match=message):
        learn.fit(2, cbs=SparsifyCallback(50, "weight", "local", criterion, one_shot, verbose=False))
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(learn.model).items())


def test_trying_a_criterion_leaves_no_trace() -> None:
    def careless(w: Weights) -> Tensor:
        return w.now.abs_() + torch.rand_like(w.now) + np.random.rand()  # noqa: NPY002

    learn = learner()
    before, state, numbers = tensors(learn.model), torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    learn.add_cb(SparsifyCallback(50, "weight", "local", careless, Levels(), verbose=False))
    learn.sparsify_callback.begin()
    assert torch.equal(state, torch.get_rng_state()) and np.array_equal(numbers, np.random.get_state()[1])  # noqa: NPY002
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(learn.model).items())


def by_numpy(start: float, end: float, pos: float) -> Any:
    return np.float32(start) + (end - start) * np.sqrt(pos)


def by_torch(start: float, end: float, pos: float) -> Any:
    return torch.lerp(torch.tensor(start), torch.tensor(end), torch.tensor(pos))


class Ramp:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, start: Any, end: Any, pos: Any) -> Any:
        return start + (end - start) * pos


one_step = partial(sched_iterative, n_steps=np.int64(1))


@pytest.mark.parametrize(
    "given", [sched_agp, sched_cos, by_numpy, by_torch, Ramp(), "agp", one_step],
    ids=["own", "fastai", "numpy", "torch", "object", "name", "partial"],
)  # fmt: skip
def test_a_schedule_may_be_a_function_or_a_name(given: Any) -> None:
    learn = learner()
    cb = SparsifyCallback(50, "weight", "local", large_final, given, verbose=False)
    learn.fit(2, 1e-2, cbs=cb)
    assert learn.sparsity == pytest.approx(50, abs=0.01) and "0x" not in cb.ticket().provenance["schedule"]
    assert isinstance(cb.schedule, Schedule)
    if callable(given):
        assert cb.schedule.prunes(9, Fraction(1, 2)) == Schedule(given).prunes(9, Fraction(1, 2))
    if given in (by_numpy, by_torch):
        assert not [said for contract in CONTRACTS["schedule"] if (said := what_breaks(contract, given))]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda pos: pos, r"schedule: <lambda>\(0, 0.5, 0.5\) raises TypeError: .*; expected a function f\(start"),
        (SchedCos(0, 1), r"schedule: _?Annealer\w*\(0, 0.5, 0.5\) raises TypeError"),
        (lambda start, end, pos: None, r"found None; expected a finite number"),
        (lambda start, end, pos: math.nan, r"found nan; expected a finite number"),
        ("imp", r"schedule \(by levels: Levels\(prune_rate=20\)\): found 'imp'; expected one of agp"),
        ("agb", r"schedule: found 'agb'; .*did you mean agp"),
        (Levels, r"schedule: found <class .*; expected a Schedule"),
    ],
    ids=["one argument", "of fastai, bound", "None", "nan", "levels", "unknown", "a class"],
)  # fmt: skip
def test_what_is_no_schedule_is_refused_at_once(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SparsifyCallback(50, "weight", "local", large_final, given)


def test_a_schedule_that_fails_later_in_the_fit_is_refused_before_it() -> None:
    with pytest.raises(UserError, match=r"\(0, 0.5, 0\) raises ZeroDivisionError"):
        pruned(schedule=lambda start, end, pos: end / pos * pos)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("conv", ["0", "4"]), ("linear", ["9"]), ("all", ["0", "4", "9"]), ("auto", ["0", "4"]), ("Conv2d", ["0", "4"]),
        ([nn.Conv2d], ["0", "4"]), ([nn.Conv2d, "linear"], ["0", "4", "9"]), ({"Linear"}, ["9"]),
        (nn.Conv2d | nn.Linear, ["0", "4", "9"]), ((nn.Linear,), ["9"]),
    ],
    ids=["conv", "linear", "all", "auto", "class", "list", "list with a name", "set", "union", "tuple"],
)  # fmt: skip
def test_types_of_layer_by_type_by_name_and_several(given: Any, names: list[str]) -> None:
    learn = learner()
    assert [layer.name for layer in prunable_layers(learn.model, given)] == names
    learn.sparsify(50, layer_type=given)
    assert list(counts(learn)) == [f"{name}.weight" for name in names]


@pytest.mark.parametrize("given", ["convolution", [], [nn.Conv2d, 3], int, "functional", nn.Conv2d(1, 1, 1)], ids=str)
def test_what_is_no_type_of_layer_is_refused(given: Any) -> None:
    with pytest.raises(UserError, match=r"layer_type: found .*; expected (a type|at least one)"):
        SparsifyCallback(50, "weight", "local", large_final, one_shot, layer_type=given)


NUMBERS = [np.int64, np.int8, np.float16, np.float32, np.array, torch.tensor]


@pytest.mark.parametrize("number", NUMBERS, ids=["int64", "int8", "float16", "float32", "array", "tensor"])
def test_numbers_of_numpy_and_torch_are_numbers(number: Any, tmp_path: Path) -> None:
    plain, whole = pruned(), number if number not in (np.float16, np.float32) else np.int32
    cb = SparsifyCallback(number(50), "weight", "local", large_final, Schedule(sched_agp, end_pct=number(1)), lth=False,
                          rewind_epoch=whole(1), seed=whole(3), verbose=False)  # fmt: skip
    learn = learner()
    learn.fit(np.int64(2), 1e-2, cbs=cb)
    assert counts(learn) == counts(plain)
    provenance = json.loads(json.dumps(cb.ticket().provenance))
    assert provenance["sparsity_asked_pct"] == 50 and provenance["epochs"] == 2 and provenance["rewind_epoch"] == 1
    save_ticket(cb.ticket(), tmp_path / "ticket")
    by_layer = learner()
    by_layer.sparsify({"0": number(50), "4": number(25)})
    assert counts(by_layer) == {"0.weight": 27, "4.weight": 324}


def test_a_float32_is_the_decimal_that_it_is_printed_as() -> None:
    assert SparsifyCallback(np.float32(80.1), "weight", "local", large_final, one_shot).sparsity == 80.1
    assert Levels(prune_rate=torch.tensor(33.3)).prune_rate == 33.3  # type: ignore[arg-type]


BAD = [np.float32("nan"), np.array([50.0]), torch.tensor([50.0]), np.bool_(True), "50", None]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_what_is_no_number_is_refused(bad: Any) -> None:
    settings: tuple[Any, ...] = ("weight", "local", large_final, one_shot)
    for argument, make in {
        "sparsity": lambda: SparsifyCallback(bad, *settings),
        "sparsity.": lambda: SparsifyCallback({"0": bad}, *settings),
        "seed": lambda: SparsifyCallback(50, *settings, seed=bad),
        "prune_rate": lambda: Levels(prune_rate=bad),
        "start_pct": lambda: Schedule(sched_agp, start_pct=np.array(["a"]) if bad is None else bad),
    }.items():
        with pytest.raises(UserError, match=argument.strip(".")):
            make()
    with pytest.raises(UserError, match="sparsity of a layer: found 3; expected the name of a layer"):
        SparsifyCallback({3: 50}, *settings)


def test_find_tickets_goes_on_with_the_same_criterion_made_again() -> None:
    learn, loop = learner(), {"levels": np.int64(1), "epochs": np.int32(1), "rewind_epoch": np.int8(0)}
    first = list(find_tickets(learn, prune_rate=np.float32(20), criteria=partial(power, p=2), **loop))
    more = list(find_tickets(learn, prune_rate=20, criteria=partial(power, p=2), **{**loop, "levels": 2}))
    assert [level.level for level in (*first, *more)] == [0, 1, 2] and more[-1].sparsity == pytest.approx(36, abs=0.1)
    with pytest.raises(UserError, match="find_tickets: criterion: found"):
        list(find_tickets(learn, criteria=partial(power, p=3), **loop))


def test_objects_are_the_same_criterion_if_they_are_made_alike() -> None:
    assert is_same(Unfinished(), Unfinished()) and is_same(Power(2), Power(2)) and not is_same(Power(2), Power(3))
    assert not is_same(power, weighed) and not is_same(copy.copy, pickle.dumps)
