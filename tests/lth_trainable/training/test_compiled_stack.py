"""The steps of networks that are trained as one, through `torch.compile`.

As for single trials, most of it is shown with a backend that runs PyTorch's own kernels; what the real compiler makes
of it has tests of its own, which take minutes.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stacking.run import NotStackable
from lth_trainable.stacking.slots import Member
from lth_trainable.stacking.stack import Stack
from lth_trainable.store.store import Store
from lth_trainable.training import cohort, compiled
from lth_trainable.training.cohort import run_cohort
from lth_trainable.training.compiled import CompiledFunction
from lth_trainable.training.execution import Execution, prepared
from lth_trainable.training.run import run_trial
from tests.plugins import tiny_cnn
from tests.support.cohorts import results, trained_together
from tests.support.stacks import (
    CLASSES,
    copied,
    differing,
    diverged,
    loaders,
    member,
    optimizer_for,
    run_of,
    trained,
)

K = 3
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]
COMPILER = functools.partial(CompiledFunction, threads=1)
TOGETHER = Execution(compile=True, replicas=K)
LEVELS: dict[str, Any] = {"batch_size": 230, "epochs": 2, "target_sparsity_pct": 64, "rewind_epoch": 1}
SPECS = [TrialSpec(**LEVELS, seed=seed) for seed in range(2)]


@pytest.fixture(autouse=True)
def no_stack_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "_kept", [])


def stack_of(network: str, dls: Any, compiler: Any = COMPILER, precision: str = "fp32", k: int = K) -> Stack:
    like = member(network, 50, "sgd", dls.train)
    return Stack(like.model, like.optimizer, dls.train, nn.CrossEntropyLoss(), precision, k, compiler)


def weights(found: dict[str, Any]) -> dict[str, Any]:
    """Without results on splits, which compiled stacks evaluate in batches of one size."""
    return {name: value for name, value in found.items() if not name.startswith("validation")}


# -- what is compiled --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["lenet_300_100", "conv_2", "with_dropout"])
def test_what_is_written_down_is_the_step(network: str, graphs: list[Any]) -> None:
    """Forward and backward, dropout, buffers that are replaced: PyTorch's own kernels give the same bytes."""
    dls = loaders(augment="flip_shift" if network == "conv_2" else "none")
    own, run = member(network, 1), run_of(dls.train, 1)
    plain = stack_of(network, dls, None)
    assert not graphs
    stack = stack_of(network, dls)
    assert len(graphs) == 3, "a whole batch, a cut one, an evaluation; nothing else is compiled later"
    found, expected = (trained(each, {1: own}, {1: run}, dls)[1] for each in (stack, plain))
    assert not differing(weights(found), weights(expected))
    assert stack.evaluate([1], dls.valid)[1][:2] == pytest.approx(plain.evaluate([1], dls.valid)[1][:2])
    assert len(graphs) == 3


def test_statistics_of_norms_move_as_without_the_compiler(graphs: list[Any]) -> None:
    dls, found = loaders(), list[dict[str, Tensor]]()
    torch.manual_seed(0)
    model = tiny_cnn((3, 16, 16), CLASSES)
    for compiler in (None, COMPILER):
        own = copied(Member(model=model, optimizer=optimizer_for("sgd", model)))
        stack = Stack(model, own.optimizer, dls.train, nn.CrossEntropyLoss(), "fp32", K, compiler)
        stack.load_all({0: own})
        stack.train({0: run_of(dls.train, 1, 1e-4)})
        stack.unload_all({0: own})
        found.append(dict(own.model.named_buffers()))
    for name, value in model.named_buffers():
        assert torch.allclose(found[0][name].double(), found[1][name].double(), rtol=1e-4, atol=1e-6), name
        assert not torch.equal(found[0][name], value), name


class Sign(torch.autograd.Function):
    """A step function, whose gradient is as if it were 2 x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 2 * gradients[0]


class OwnGradients(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3 * 16 * 16, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = Sign.apply(self.first(x.flatten(1)))
        with torch.no_grad():
            scale = self.second.weight.abs().mean()
        found: Tensor = self.second(hidden) * scale
        return found


def test_gradients_that_are_a_networks_own_stay(graphs: list[Any]) -> None:
    dls, model, found = loaders(), OwnGradients(), list[dict[str, Tensor]]()
    for compiler in (None, COMPILER):
        own = copied(Member(model=model, optimizer=optimizer_for("sgd", model)))
        stack = Stack(model, own.optimizer, dls.train, nn.CrossEntropyLoss(), "fp32", K, compiler)
        stack.load_all({1: own})
        stack.train({1: run_of(dls.train, 1)})
        stack.unload_all({1: own})
        found.append(dict(own.model.named_parameters()))
    for name, value in model.named_parameters():
        assert torch.equal(found[0][name], found[1][name]) and not torch.equal(found[0][name], value), name
    assert len(graphs) == 3


def test_a_compiled_evaluation_is_of_whole_batches_and_counts_each_image_once(graphs: list[Any]) -> None:
    dls = loaders()
    stack, own = stack_of("conv_2", dls), member("conv_2", 1)
    stack.load_all({2: own})
    for loader in (dls.valid, dls.train.new(shuffle=False)):  # fewer images than are evaluated at a time, and as many
        found = stack.evaluate([2], loader)[2]
        own.model.eval()
        with torch.no_grad():
            right = own.model(loader.x).argmax(1) == loader.y
        assert torch.equal(found.right, right) and found.correct == int(right.sum())
    assert len(graphs) == 3


@pytest.mark.parametrize("compiler", [None, COMPILER], ids=["plain", "compiled"])
def test_a_stack_is_freed_at_once(compiler: Any, graphs: list[Any]) -> None:
    """Its memory is wanted for the next one; only references that go round in circles wait for the collector."""
    dls = loaders()
    stack = stack_of("lenet_300_100", dls, compiler)
    trained(stack, {0: member("lenet_300_100", 1)}, {0: run_of(dls.train, 1)}, dls)
    weights = [weakref.ref(value) for value in stack.slots.parameters.values()]
    gc.collect()
    gc.disable()
    try:
        del stack
        assert not any(of() is not None for of in weights)
    finally:
        gc.enable()


# -- what is refused ---------------------------------------------------------------------------------------------------


def wrong(change: Callable[[Tensor], Tensor]) -> Any:
    """A compiler whose code gives other predictions."""

    def compiler(function: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any) -> Any:
            found = function(*arguments)
            if isinstance(found, Tensor):
                return change(found)
            return found._replace(predictions=change(found.predictions))

        return changed

    return compiler


def of_one_slot(predictions: Tensor) -> Tensor:
    last = torch.arange(len(predictions)).view(-1, 1, 1) == len(predictions) - 1
    return torch.where(last, predictions.nextafter(torch.tensor(9.0)), predictions)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (of_one_slot, "equal networks in different slots come out different"),
        (lambda predictions: predictions + 0 * predictions.sum(0), "a member that diverges would change others"),
        (
            lambda predictions: 1.2 * predictions,
            r"its outputs are further from the exact ones compiled .* not compiled",
        ),
        (lambda predictions: predictions.roll(1, 0), "its outputs are further from the exact ones compiled"),
    ],
    ids=["another slot", "company", "wrong", "another member's"],
)
def test_compiled_code_that_is_wrong_or_no_slots_own_is_found_before_it_trains(
    change: Callable[[Tensor], Tensor], why: str
) -> None:
    with pytest.raises(NotStackable, match=why):
        stack_of("lenet_300_100", loaders(), wrong(change))


def is_of_a_stack(graph: Any) -> bool:
    return "aten" in graph.code


def refusing(what: Callable[[Any], bool]) -> Any:
    def backend(graph: Any, inputs: Any) -> Any:
        if what(graph):
            raise ValueError("no kernel for this\nand more")
        return graph.forward

    return backend


def test_a_stack_that_cannot_be_compiled_is_trained_network_by_network_and_that_is_told(
    tmp_path: Path, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "BACKEND", refusing(is_of_a_stack))
    notes = list[str]()
    jobs = [
        functools.partial(run_trial, s, Store(tmp_path / s.name), "r", TOGETHER, on_note=notes.append) for s in SPECS
    ]
    for spec, record in zip(SPECS, run_cohort(jobs, TOGETHER, SPECS[0]), strict=True):
        assert not isinstance(record, BaseException), record
        alone = run_trial(spec, Store(tmp_path / "alone" / spec.name), "r", Execution(compile=True))
        assert results(record) == results(alone)
    expected = (
        f"lenet_300_100 is not trained in a stack of {K} networks, and without one --replicas 1 is faster: "
        "torch.compile cannot compile a step of it (ValueError: no kernel for this)"
    )
    assert notes == [expected, expected]


def test_a_network_that_cannot_be_compiled_at_all_is_one_line_for_each_member(
    tmp_path: Path, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "BACKEND", refusing(lambda graph: True))
    jobs = [functools.partial(run_trial, s, Store(tmp_path / s.name), "r", TOGETHER) for s in SPECS]
    for spec, error in zip(SPECS, run_cohort(jobs, TOGETHER, SPECS[0]), strict=True):
        assert isinstance(error, UserError)
        assert str(error) == (
            f"{spec.name}: torch.compile cannot compile lenet_300_100 (ValueError: no kernel for this); expected a "
            "network that it can; leave out --compile, or change the network"
        )


class ReadsANumber(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.dense(x.flatten(1)) * float(torch.ones(3).sum())
        return found


def reads_a_number(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    return ReadsANumber()


def test_a_step_that_cannot_be_written_down_is_compiled_network_by_network(
    tmp_path: Path, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, notes = TrialSpec(**LEVELS, model=f"{__name__}:reads_a_number"), list[str]()
    record = run_trial(spec, Store(tmp_path / "together"), "r", TOGETHER, on_note=notes.append)
    assert len(notes) == 1 and "torch.compile cannot compile a step of it (RuntimeError" in notes[0]
    assert results(record) == results(run_trial(spec, Store(tmp_path / "alone"), "r", Execution(compile=True)))


# -- trials ------------------------------------------------------------------------------------------------------------


def test_members_end_as_without_the_compiler_and_their_records_say_so(tmp_path: Path, graphs: list[Any]) -> None:
    specs = [TrialSpec(**LEVELS, validate_every=2, seed=seed) for seed in range(2)]
    plain = trained_together(specs, tmp_path / "plain", Execution(replicas=K))
    assert not graphs
    found = trained_together(specs, tmp_path / "compiled", TOGETHER)
    n = len(graphs)
    assert n == 2, "steps are all of one size"
    for one, other in zip(found, plain, strict=True):
        assert one["sha256"] == other["sha256"] and one["layers"] == other["layers"]
        assert one["fingerprint"] == {**other["fingerprint"], "compiled": True} and one["fingerprint"]["replicas"] == K
    trained_together([specs[0]], tmp_path / "again", TOGETHER)
    assert len(graphs) == n, "the next cohort compiles nothing anew"


def test_states_of_other_ways_to_train_are_not_continued_from(tmp_path: Path, graphs: list[Any]) -> None:
    ways = [Execution(compile=c, replicas=k) for c in (False, True) for k in (1, 2, 3)]
    store, found = Store(tmp_path), []
    for number, execution in enumerate(ways):
        found.append(run_trial(SPECS[0], store, str(number), execution)["epochs_trained"])
    assert found == [found[0]] * len(ways) and found[0] > 0
    assert run_trial(SPECS[0], store, "again", ways[-1])["epochs_trained"] == 0


class Killed(BaseException):
    pass


def test_a_cohort_that_was_killed_goes_on_from_its_states(
    tmp_path: Path, graphs: list[Any], every_epoch_is_stored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained_together(SPECS, tmp_path / "whole", TOGETHER)
    turns = iter(range(10**6))

    def between() -> None:
        if next(turns) == 5:
            raise Killed

    store = [Store(tmp_path / s.name) for s in SPECS]
    jobs = [functools.partial(run_trial, s, of, "r", TOGETHER) for s, of in zip(SPECS, store, strict=True)]
    with pytest.raises(Killed):
        run_cohort(jobs, TOGETHER, SPECS[0], between)
    assert not cohort._kept
    for record, expected in zip(run_cohort(jobs[::-1], TOGETHER, SPECS[0]), whole[::-1], strict=True):
        assert not isinstance(record, BaseException), record
        assert 0 < record["epochs_trained"] < expected["epochs_trained"]
        assert record["sha256"] == expected["sha256"] and record["layers"] == expected["layers"]


# -- the real compiler -------------------------------------------------------------------------------------------------


ON_CPU = [("lenet_300_100", 3, "fp32"), ("conv_2", 3, "bf16"), ("with_dropout", 3, "fp32")]
ON_GPU = [("lenet_300_100", 64, "fp32"), ("conv_2", 8, "bf16"), ("with_dropout", 8, "fp32"), ("resnet20", 8, "bf16")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "network", "k", "precision"),
    [*(("cpu", *case) for case in ON_CPU), *(pytest.param("cuda", *case, marks=NEEDS_GPU) for case in ON_GPU)],
)
def test_bytes_depend_on_neither_slot_nor_company(
    device: str, network: str, k: int, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone in slot 0; last of a full stack with other rates; beside a member whose weights are NaN."""
    monkeypatch.setenv("LTH_CACHE", str(tmp_path))
    with prepared(Execution(device=device, deterministic=True, compile=True, replicas=k), precision):
        dls = loaders(device, "flip_shift", channels_last=device == "cuda")
        own, run = member(network, 1, "sgd", dls.train), run_of(dls.train, 1)
        stack = stack_of(network, dls, COMPILER, precision, k)
        alone = trained(stack, {0: own}, {0: run}, dls)[0]
        assert device == "cpu" or stack.refusal is None, stack.refusal
        strangers = {slot: member(network, 10 + slot, "sgd", dls.train) for slot in range(k - 1)}
        runs = {slot: run_of(dls.train, 5 + slot, 0.02 if slot % 2 else 0.01) for slot in strangers}
        full = trained(stack, {**strangers, k - 1: own}, {**runs, k - 1: run}, dls)
        assert not differing(alone, full[k - 1]), "in the last slot of a full stack"
        ill = diverged(network, "sgd", dls.train)
        beside = trained(stack, {1: own, 2: ill}, {1: run, 2: run_of(dls.train, 8)}, dls)
        assert not differing(alone, beside[1]), "beside a member that is NaN"
        assert differing(alone, full[0]), "members with other weights came out equal"


TRAIN = """
import functools, json, sys
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.cohort import run_cohort
from lth_trainable.training.execution import Execution
from lth_trainable.training.run import run_trial
specs, folder, execution = [TrialSpec(**f) for f in json.loads(sys.argv[1])], sys.argv[2], json.loads(sys.argv[3])
execution = Execution(**execution)
jobs = [functools.partial(run_trial, s, Store(f"{folder}/{s.seed}"), "r", execution, on_note=sys.exit) for s in specs]
records = run_cohort(jobs, execution, specs[0])
print(json.dumps({r["spec"]["seed"]: {name: r[name] for name in ("sha256", "result")} for r in records}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_member_has_the_same_bytes_in_each_process_in_any_slot_with_a_cold_and_a_warm_cache(
    device: str, tmp_path: Path
) -> None:
    fields = {**LEVELS, "validate_every": 3, "precision": "bf16" if device == "cuda" else "fp32"}
    environment = {**os.environ, "LTH_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    environment.pop(compiled.CACHE_VARIABLE, None)

    def run(name: str, seeds: tuple[int, ...], execution: dict[str, Any]) -> dict[str, Any]:
        specs = json.dumps([{**fields, "seed": seed} for seed in seeds])
        how = json.dumps({"device": device, "deterministic": device == "cuda", "replicas": 4, **execution})
        ended = subprocess.run(
            [sys.executable, "-c", TRAIN, specs, str(tmp_path / name), how],
            stdout=subprocess.PIPE, text=True, check=True, env=environment,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return found

    cold = run("cold", (0, 1, 2), {"compile": True})
    kept = set((tmp_path / "cache" / "compiled").rglob("*.so"))
    warm = run("warm", (5, 6, 7, 0), {"compile": True})
    assert cold["0"] == warm["0"] and cold["1"] != cold["0"]
    if device == "cpu":
        assert kept and kept == set((tmp_path / "cache" / "compiled").rglob("*.so")), "nothing was compiled anew"
    plain = run("plain", (0,), {})
    assert plain["0"]["sha256"] != cold["0"]["sha256"]
    assert cold["0"]["result"]["test_accuracy"] == pytest.approx(plain["0"]["result"]["test_accuracy"], abs=0.05)
