"""What every criterion, schedule, granularity, network and data set must do, as functions that say what it does not.

Each contract is `f(plug_in) -> None` and raises `ContractError` with a sentence. `CONTRACTS` lists them by kind; an
entry of `CRITERIA`, `SCHEDULES`, `GRANULARITIES`, `MODELS` or `DATASETS` is held to them by being there, and
`python -m lth_trainable.check` holds a user's own to the same.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lth_trainable.criteria import CRITERIA, Criterion, Weights
from lth_trainable.data import DATASETS, Dataset, Loader, Part
from lth_trainable.errors import UserError
from lth_trainable.granularity import GRANULARITIES, group_axes
from lth_trainable.layers import PRUNABLE, prunable_layers
from lth_trainable.masks import CONTEXTS, Mask, count_zeros, prune
from lth_trainable.models import MODELS, Builder
from lth_trainable.pruner import Pruner
from lth_trainable.schedules import SCHEDULES, Schedule
from lth_trainable.seeds import generator

LADDER = (Fraction(1, 5), Fraction(1, 2), Fraction(9, 10))
EPOCHS = (4, 7, 20, 33)
TARGETS = (Fraction(1, 2), Fraction(9, 10))
_SHAPE, _N_CLASSES = (3, 64, 64), 2


class ContractError(AssertionError):
    """A plug-in breaks a contract; the message is a sentence for the person who wrote it."""


@dataclass(frozen=True)
class Contract:
    """One promise: its name, and the check, whose docstring says what is promised."""

    name: str
    check: Callable[[Any], None]


# -- criteria --------------------------------------------------------------------------------------------------------


def scores_fit(criterion: Criterion) -> None:
    """A criterion gives one number per weight, none of them NaN, and leaves the weights alone."""
    trial = _Trial(criterion)
    for layer in trial.pruner.layers:
        weights = _weights(layer.weight.detach(), layer.parameter_name)
        before = [t.clone() for t in (weights.now, weights.initial, weights.previous)]
        scores = criterion(weights)
        if not isinstance(scores, Tensor):
            raise ContractError(f"it returns {type(scores).__name__}; a criterion returns a tensor of scores")
        if scores.shape != weights.now.shape:
            found, wanted = list(scores.shape), list(weights.now.shape)
            raise ContractError(
                f"its scores have the shape {found} for weights of the shape {wanted}; one a weight is due"
            )
        if scores.isnan().any():
            raise ContractError("some of its scores are NaN, which cannot be ranked; is something divided by zero?")
        for tensor, copy in zip((weights.now, weights.initial, weights.previous), before, strict=True):
            if not torch.equal(tensor, copy):
                raise ContractError("it changes the weights that it scores; work on copies (abs(), not abs_())")


def exact_count(criterion: Criterion) -> None:
    """Masks have floor(n s + 1/2) zeros: per layer in the local context, in all in the global one."""
    for context in CONTEXTS:
        masks = _Trial(criterion, context).climb()
        for sparsity, level in zip(LADDER, masks, strict=True):
            groups = [list(level.values())] if context == "global" else [[mask] for mask in level.values()]
            for group in groups:
                n, zeros = sum(mask.size for mask in group), sum(int(np.count_nonzero(~mask)) for mask in group)
                if zeros != count_zeros(n, sparsity):
                    raise ContractError(
                        f"at a sparsity of {float(100 * sparsity):g} % ({context}) {zeros} of {n} weights are removed;"
                        f" {count_zeros(n, sparsity)} are due"
                    )


def monotone(criterion: Criterion) -> None:
    """As sparsity rises, what was removed stays removed, and the removed weights stay zero."""
    for context in CONTEXTS:
        trial = _Trial(criterion, context)
        _check_shrinking(trial.climb())
        for layer in trial.pruner.layers:
            mask = torch.from_numpy(trial.pruner.levels[-1][layer.parameter_name])
            if layer.weight.detach()[~mask].any():
                raise ContractError(f"removed weights of layer {layer.name} are not zero after the prune")


def deterministic(criterion: Criterion) -> None:
    """The same weights and seed give the same masks, whatever was drawn from any random stream before."""
    first = _Trial(criterion).climb()
    state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 (plug-ins may draw from the global stream)
    try:
        torch.manual_seed(torch.initial_seed() % 2**31 + 1)
        np.random.seed(7)  # noqa: NPY002
        second = _Trial(criterion).climb()
    finally:
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
    if not _equal(first, second):
        raise ContractError("two runs on the same weights give different masks; draw random numbers from w.noise only")


def resumable(criterion: Criterion) -> None:
    """A new process that goes on from saved masks and weights finds the same next mask."""
    through = _Trial(criterion)
    expected = through.climb()
    before = _Trial(criterion)
    before.climb(LADDER[:-1])
    after = _Trial(criterion)
    after.take_up(pickle.loads(pickle.dumps(before.state())))
    if not _equal(expected[-1:], after.climb(LADDER[-1:])[-1:]):
        raise ContractError("going on from saved masks gives another mask than going on at once; it must keep no state")


def serialisable(plug_in: Any) -> None:
    """The function pickles by reference, so that workers find it, and its name can stand in JSON."""
    name = getattr(plug_in, "__qualname__", None)
    if name is None:
        raise ContractError("it has no name of its own: make it a function at the top of a module")
    if "<" in name:
        raise ContractError(f"{name} is defined within a function or as a lambda; define it at the top of a module")
    try:
        loaded = pickle.loads(pickle.dumps(plug_in))
    except Exception as error:
        raise ContractError(f"it cannot be pickled, so no worker could be sent it: {error}") from error
    if loaded is not plug_in:
        raise ContractError("unpickling it gives another object; define it once, at the top of a module")
    reference = f"{plug_in.__module__}:{name}"
    if json.loads(json.dumps(reference)) != reference:
        raise ContractError(f"its name {reference!r} does not come back from JSON")
    if getattr(importlib.import_module(plug_in.__module__), name, None) is not plug_in:
        raise ContractError(f"the name {reference} does not lead back to it")


# -- schedules -------------------------------------------------------------------------------------------------------


def values_in_range(function: Callable[..., Any]) -> None:
    """f(start, end, pos) is a finite number between 0 and `end` for every pos in [0, 1]."""
    for end, position in itertools.product(TARGETS, _positions()):
        value = function(Fraction(0), end, position)
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ContractError(f"f(0, {float(end)}, {float(position):g}) is {value!r}; a finite number is due")
        if not -1e-6 <= float(value) <= float(end) + 1e-6:
            raise ContractError(
                f"f(0, {float(end)}, {float(position):g}) is {float(value):g}, outside [0, {float(end)}]"
            )


def reaches_target(function: Callable[..., Any]) -> None:
    """In every fit long enough the target is reached exactly, by at most one prune an epoch."""
    for n_epochs, target in itertools.product(EPOCHS, TARGETS):
        events = Schedule(function).prunes(n_epochs, target)
        epochs = [event.epoch for event in events]
        if epochs != sorted(set(epochs)) or not 0 <= epochs[0] <= epochs[-1] < n_epochs:
            raise ContractError(f"in {n_epochs} epochs it prunes at {epochs}; one prune an epoch is due, in order")
        if max(event.sparsity for event in events) != target:
            raise ContractError(f"in {n_epochs} epochs it never reaches the target of {float(100 * target):g} %")


def rises(function: Callable[..., Any]) -> None:
    """Sparsity rises to its target, so that masks only shrink; a schedule that `peaks` may fall after it."""
    peaks = Schedule(function).rule.peaks
    for n_epochs, target in itertools.product(EPOCHS, TARGETS):
        values = [event.sparsity for event in Schedule(function).prunes(n_epochs, target)]
        top = values.index(max(values)) + 1 if peaks else len(values)
        if values[:top] != sorted(values[:top]) or values[top:] != sorted(values[top:], reverse=True):
            shown = ", ".join(f"{float(100 * value):.2f}" for value in values)
            raise ContractError(f"in {n_epochs} epochs its sparsities ({shown} %) do not rise to the target")


def same_twice(function: Callable[..., Any]) -> None:
    """Asked twice, and in any order, it gives the same values."""
    positions = _positions()
    first = [function(Fraction(0), TARGETS[1], position) for position in positions]
    second = [function(Fraction(0), TARGETS[1], position) for position in reversed(positions)][::-1]
    if first != second:
        raise ContractError("asked again it gives other values; a schedule must be a function of its arguments alone")


def resumes_anywhere(function: Callable[..., Any]) -> None:
    """The prunes left after any epoch do not depend on how the fit got there."""
    whole = Schedule(function).prunes(EPOCHS[2], TARGETS[0])
    for epoch in range(EPOCHS[2]):
        left = [event for event in Schedule(function).prunes(EPOCHS[2], TARGETS[0]) if event.epoch >= epoch]
        if left != [event for event in whole if event.epoch >= epoch]:
            raise ContractError(f"a fit that goes on at epoch {epoch} would prune differently; it must keep no state")


# -- granularities (by name) -----------------------------------------------------------------------------------------


def groups_are_exact(granularity: str) -> None:
    """In the local context floor(g s + 1/2) of a layer's g groups go, whole."""
    for name, (scores, axes) in _grouped(granularity).items():
        for sparsity in LADDER:
            kept = prune({name: scores}, sparsity, axes={name: axes})[name].mean(axis=axes)
            if not np.isin(kept, (0, 1)).all():
                raise ContractError(f"{granularity} splits a group of {name} at {float(100 * sparsity):g} %")
            zeros = int(np.count_nonzero(kept == 0))
            if zeros != count_zeros(kept.size, sparsity):
                raise ContractError(
                    f"{granularity} removes {zeros} of {kept.size} groups of {name}, not what was asked"
                )


def groups_count_weights(granularity: str) -> None:
    """In the global context the weights removed are the nearest to what was asked, to half a group."""
    layers = _grouped(granularity)
    scores, axes = {name: pair[0] for name, pair in layers.items()}, {name: pair[1] for name, pair in layers.items()}
    for sparsity in LADDER:
        masks = prune(scores, sparsity, axes=axes, context="global")
        total, removed = sum(s.size for s in scores.values()), sum(int(np.count_nonzero(~m)) for m in masks.values())
        largest = max(math.prod(np.array(s.shape)[list(axes[name])]) for name, s in scores.items())
        if abs(removed - total * sparsity) > Fraction(int(largest) + 1, 2):
            raise ContractError(f"{granularity} removes {removed} of {total} weights at {float(100 * sparsity):g} %")


def groups_shrink(granularity: str) -> None:
    """Masks only shrink as sparsity rises, and saved masks lead to the same next mask."""
    layers = _grouped(granularity)
    axes = {name: pair[1] for name, pair in layers.items()}
    for context in CONTEXTS:
        levels: list[dict[str, Mask]] = []
        for step, sparsity in enumerate(LADDER):
            scores = {name: np.roll(pair[0], step) for name, pair in layers.items()}
            saved = pickle.loads(pickle.dumps(levels[-1])) if levels else None
            masks = [
                prune(scores, sparsity, axes=axes, context=context, previous=previous)
                for previous in (levels[-1] if levels else None, saved)
            ]
            if not _equal(masks[:1], masks[1:]):
                raise ContractError(f"{granularity} ({context}): going on from a saved mask gives another mask")
            levels.append(masks[0])
        _check_shrinking(levels)


def groups_same_in_any_memory_format(granularity: str) -> None:
    """The same scores in another memory order, or asked twice, give the same mask."""
    for name, (scores, axes) in _grouped(granularity).items():
        masks = [prune({name: s}, LADDER[1], axes={name: axes}) for s in (scores, scores, np.asfortranarray(scores))]
        if not (_equal(masks[:1], masks[1:2]) and _equal(masks[:1], masks[2:])):
            raise ContractError(f"{granularity} of {name} depends on the memory format")


def named_in_json(granularity: str) -> None:
    """The name comes back from JSON, and pickles."""
    if json.loads(json.dumps(granularity)) != granularity or pickle.loads(pickle.dumps(granularity)) != granularity:
        raise ContractError(f"the name {granularity!r} does not come back from JSON")


# -- networks --------------------------------------------------------------------------------------------------------


def answers_per_class(builder: Builder) -> None:
    """f(shape, n_classes) is a network with one output a class, and no NaN among them."""
    model = _build(builder)
    model.eval()
    with torch.no_grad():
        outputs = model(_noise(2, *_SHAPE))
    if tuple(outputs.shape) != (2, _N_CLASSES):
        raise ContractError(f"for 2 pictures of {_N_CLASSES} classes it answers with the shape {list(outputs.shape)}")
    if not outputs.isfinite().all():
        raise ContractError("a freshly built network answers with NaN or infinity")


def has_layers(builder: Builder) -> None:
    """There is a layer to prune, and pruning half of it leaves exactly half."""
    pruner = Pruner(prunable_layers(_build(builder)), CRITERIA["large_final"])
    pruner.prune(Fraction(1, 2))
    due = sum(count_zeros(layer.weight.numel(), Fraction(1, 2)) for layer in pruner.layers)
    if pruner.n_weights - pruner.n_kept != due:
        raise ContractError(f"{pruner.n_weights - pruner.n_kept} of {pruner.n_weights} weights are removed, not {due}")


def built_from_the_seed(builder: Builder) -> None:
    """The same seed builds the same weights, another seed others, and nothing else is drawn from."""
    first, second, other = (_build(builder, seed).state_dict() for seed in (0, 0, 1))
    if list(first) != list(second) or not all(torch.equal(first[name], second[name]) for name in first):
        raise ContractError("built twice under one torch.manual_seed it has different weights; draw from torch only")
    if all(torch.equal(first[name], other[name]) for name in first):
        raise ContractError("under another seed it has the same weights, so its replicates would not differ")


def resumes_from_state(builder: Builder) -> None:
    """A network built anew and given the saved `state_dict` answers as the saved one."""
    saved, fresh = _build(builder), _build(builder, seed=1)
    fresh.load_state_dict(pickle.loads(pickle.dumps(saved.state_dict())))
    x = _noise(2, *_SHAPE)
    with torch.no_grad():
        if not torch.equal(saved.eval()(x), fresh.eval()(x)):
            raise ContractError("its state_dict does not hold all of it: a restored network answers differently")


# -- data sets -------------------------------------------------------------------------------------------------------


def parts_fit(loader: Loader) -> None:
    """Three parts of float32 pictures (n, channels, height, width) and int64 labels below the number of classes."""
    data = _load(loader)
    for name in ("train", "valid", "test"):
        part = getattr(data, name)
        if not isinstance(part, Part) or len(part) == 0:
            raise ContractError(f"its {name} part is empty or not a Part")
        if part.x.dtype != np.float32 or part.x.ndim != 4 or part.x.shape[1:] != data.shape:
            found = f"{part.x.dtype} of shape {part.x.shape}"
            raise ContractError(
                f"the pictures of its {name} part are {found}; float32 (n, channels, height, width) is due"
            )
        if part.y.dtype != np.int64 or part.y.shape != (len(part.x),):
            raise ContractError(
                f"the labels of its {name} part are {part.y.dtype} of shape {part.y.shape}; int64 (n,) is due"
            )
        if part.y.min() < 0 or part.y.max() >= len(data.classes):
            raise ContractError(f"its {name} part has labels outside 0 to {len(data.classes) - 1}")
        if not np.isfinite(part.x).all():
            raise ContractError(f"its {name} part has NaN or infinity among the pixels")


def parts_are_disjoint(loader: Loader) -> None:
    """Training, validation and test are cut from one set by the split seed alone."""
    data, other = _load(loader), _load(loader, split_seed=1)
    sizes = [[len(part) for part in (d.train, d.valid, d.test)] for d in (data, other)]
    if sizes[0] != sizes[1]:
        raise ContractError(f"its parts have other sizes under another split seed: {sizes[0]} and {sizes[1]}")
    for (one, x), (two, y) in itertools.combinations([("train", data.train.x), *_held_out(data)], 2):
        seen = {picture.tobytes() for picture in x}
        shared = sum(picture.tobytes() in seen for picture in y)
        if shared > len(y) / 10:  # a few pictures may be in the collection twice
            raise ContractError(f"{shared} of the {len(y)} pictures of its {two} part are in its {one} part too")


def same_content_same_digest(loader: Loader) -> None:
    """Loaded twice, everything is equal; the digest names the content, not the split."""
    first, second, other = _load(loader), _load(loader), _load(loader, split_seed=1)
    equal = all(
        np.array_equal(getattr(first, name).x, getattr(second, name).x)
        and np.array_equal(getattr(first, name).y, getattr(second, name).y)
        for name in ("train", "valid", "test")
    )
    if not equal or first.digest != second.digest:
        raise ContractError("loaded twice with one split seed it differs; shuffle by the split seed only")
    if first.digest != other.digest:
        raise ContractError("its digest changes with the split seed; it is of the content before the split")
    if len(first.digest) != 64 or set(first.digest) - set("0123456789abcdef"):
        raise ContractError(f"its digest {first.digest!r} is not a SHA-256 in hex (see data.content_digest)")


# -- the lists -------------------------------------------------------------------------------------------------------


def _list(*checks: Callable[[Any], None]) -> tuple[Contract, ...]:
    return tuple(Contract(check.__name__.replace("_", " "), check) for check in checks)


CONTRACTS: dict[str, tuple[Contract, ...]] = {
    "criterion": _list(scores_fit, exact_count, monotone, deterministic, resumable, serialisable),
    "schedule": _list(values_in_range, reaches_target, rises, same_twice, resumes_anywhere, serialisable),
    "granularity": _list(
        groups_are_exact, groups_count_weights, groups_shrink, groups_same_in_any_memory_format, named_in_json
    ),
    "model": _list(answers_per_class, has_layers, built_from_the_seed, resumes_from_state, serialisable),
    "dataset": _list(parts_fit, parts_are_disjoint, same_content_same_digest, serialisable),
}


def what_breaks(contract: Contract, plug_in: Any) -> str | None:
    """How `plug_in` breaks the contract (any exception of its own does), in a sentence; None where it keeps it."""
    try:
        contract.check(plug_in)
    except ContractError as error:
        return str(error)
    except Exception as error:
        return f"it raises {type(error).__name__}: {error}"
    return None


def entries(kind: str) -> dict[str, Any]:
    """All plug-ins of the house of one kind, by name: what the contract suite runs over."""
    within_fit = {name: rule.function for name, rule in SCHEDULES.items() if rule.function is not None}
    registries: dict[str, Mapping[str, Any]] = {
        "criterion": CRITERIA, "schedule": within_fit, "granularity": {name: name for name in GRANULARITIES},
        "model": MODELS, "dataset": DATASETS,
    }  # fmt: skip
    return dict(registries[kind])


# -- what they are tried on ------------------------------------------------------------------------------------------


class _Trial:
    """A small network of every kind of layer, pruned level by level, its weights moved in between."""

    def __init__(self, criterion: Criterion, context: str = "local") -> None:
        self.model = _small_network()
        layers = prunable_layers(self.model, PRUNABLE)
        self.pruner = Pruner(layers, criterion, context=context, seed=3)

    def climb(self, ladder: tuple[Fraction, ...] = LADDER) -> list[dict[str, Mask]]:
        """Masks of the levels of `ladder`, after those that there are."""
        for sparsity in ladder:
            self._train(len(self.pruner.levels))
            self.pruner.prune(sparsity, self.model, lambda: [_noise(4, 3, 8, 8)])
        return self.pruner.levels

    def state(self) -> dict[str, Any]:
        pruner = self.pruner
        kept = {"levels": pruner.levels, "asked": pruner.asked, "initial": pruner.initial, "previous": pruner.previous}
        return {**kept, "model": self.model.state_dict()}

    def take_up(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for masks in state["levels"]:
            self.pruner.put(masks)
        pruner = self.pruner
        pruner.asked, pruner.initial, pruner.previous = state["asked"], state["initial"], state["previous"]

    @torch.no_grad()
    def _train(self, level: int) -> None:
        """Stands for the training between two prunes."""
        for index, layer in enumerate(self.pruner.layers):
            step = generator(0, "contract", level, index).standard_normal(layer.weight.shape, dtype=np.float32)
            layer.weight.add_(torch.from_numpy(step), alpha=0.1)
        self.pruner.apply()


def _small_network() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            draw = generator(0, "contract weights", index).standard_normal(parameter.shape, dtype=np.float32)
            parameter.copy_(torch.from_numpy(draw))
    return model


def _weights(now: Tensor, name: str) -> Weights:
    """What a criterion is handed, everything different from everything else."""
    draws = [
        torch.from_numpy(generator(0, f"contract {purpose} {name}").random(tuple(now.shape), dtype=np.float32))
        for purpose in ("initial", "previous", "noise", "inputs")
    ]
    return Weights(
        now=now.clone(), initial=draws[0] - 0.5, previous=draws[1] - 0.5, draw=lambda: draws[2], inputs=draws[3]
    )


def _grouped(granularity: str) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Scores and axes for each kind of weight that has this granularity."""
    shapes = {"linear": (7, 12), "conv1d": (6, 5, 3), "conv2d": (6, 5, 3, 4), "transposed": (5, 6, 3, 4)}
    shapes["conv3d"] = (4, 5, 3, 2, 2)
    found: dict[str, tuple[Any, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        try:
            axes = group_axes(granularity, len(shape), transposed=name == "transposed")
        except UserError:
            continue
        found[name] = generator(0, f"contract {name}").random(shape, dtype=np.float32), axes
    return found


def _check_shrinking(levels: list[dict[str, Mask]]) -> None:
    for before, after in itertools.pairwise(levels):
        for name in before:
            back = int(np.count_nonzero(after[name] & ~before[name]))
            if back:
                raise ContractError(f"{back} removed weights of {name} come back as sparsity rises")


def _equal(first: list[dict[str, Mask]], second: list[dict[str, Mask]]) -> bool:
    return all(
        np.array_equal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in (a | b)
    )  # fmt: skip


def _positions() -> list[Fraction]:
    return [Fraction(i, 60) for i in range(61)]


def _noise(*shape: int) -> Tensor:
    return torch.from_numpy(generator(0, "contract pictures").standard_normal(shape, dtype=np.float32))


def _build(builder: Builder, seed: int = 0) -> nn.Module:
    """The network under `seed`; torch's own stream is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = builder(_SHAPE, _N_CLASSES)
    if not isinstance(model, nn.Module):
        raise ContractError(f"it returns {type(model).__name__}; a network (nn.Module) is due")
    return model


def _held_out(data: Dataset) -> list[tuple[str, Any]]:
    return [("valid", data.valid.x), ("test", data.test.x)]


def _load(loader: Loader, split_seed: int = 0) -> Dataset:
    data = loader(None, split_seed)
    if not isinstance(data, Dataset):
        raise ContractError(f"it returns {type(data).__name__}; a Dataset is due")
    return data
