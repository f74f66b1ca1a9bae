"""The contracts of a network."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parameter import is_lazy

from lth_trainable.contracts.common import ContractError, as_contracts, noise, serialisable
from lth_trainable.errors import UserError, words_of
from lth_trainable.models.networks import Builder
from lth_trainable.pruning.criteria import CRITERIA
from lth_trainable.pruning.layers import LAYER_TYPES, prunable_layers
from lth_trainable.pruning.masks import count_zeros
from lth_trainable.pruning.pruner import Pruner
from lth_trainable.registry import LIBRARIES, check_call, printing_aside

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class For:
    """A builder that is checked with images of this shape and so many classes. layers: a name of `LAYER_TYPES`."""

    builder: Builder
    shape: Shape
    n_classes: int
    layers: str = "auto"

    def __call__(self, shape: Shape, n_classes: int) -> nn.Module:
        return self.builder(shape, n_classes)


_SHAPE, _N_CLASSES = (3, 64, 64), 2  # where nothing else is asked for
_EVALUATED, _TRAINED = 2, 3  # images; two numbers, so that a network for batches of one size is found


def answers_per_class(builder: Builder) -> None:
    """f(shape, n_classes) is a network with one finite output for each class, and the same for the same images."""
    model = _build(builder).eval()
    x = noise(_EVALUATED, *_case(builder)[0])
    kept = x.clone()
    with torch.no_grad():
        one, two = (_outputs(model, x, builder) for _ in range(2))
    if not torch.equal(x, kept):
        raise ContractError(
            "it changes the images that it is given, so those that are used again are others; let it work on a copy "
            "(no inplace=True in its first layer)"
        )
    if not one.isfinite().all():
        raise ContractError("a newly built network outputs NaN or infinity")
    if not _alike(one, two):
        raise ContractError(
            "evaluated twice on the same images, it gives other outputs; expected nothing random and no memory in "
            "evaluation (such as dropout that does not look at self.training)"
        )


def trains(builder: Builder) -> None:
    """In training, too, it has one output for each class; the loss reaches its weights; torch's seed fixes a step."""
    shape, n_classes = _case(builder)
    model, again = _build(builder), _build(builder)
    x, y = noise(_TRAINED, *shape), torch.arange(_TRAINED) % n_classes
    outputs = []
    for network in (model.train(), again.train()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            outputs.append(_outputs(network, x.clone(), builder, "in training "))
    if not _alike(*outputs):
        raise ContractError("in training it draws from another stream than torch's, so a trial could not be repeated")
    if not outputs[0].requires_grad:
        raise ContractError("its outputs have no gradient; expected weights with requires_grad, and no torch.no_grad")
    cross_entropy(outputs[0].float(), y).backward()
    if all(parameter.grad is None for parameter in model.parameters()):
        raise ContractError("its loss reaches none of its parameters, so nothing would be trained")


def has_layers(builder: Builder) -> None:
    """It has a layer to prune, and pruning half of it leaves exactly half."""
    layers = builder.layers if isinstance(builder, For) else "auto"
    pruner = Pruner(prunable_layers(_build(builder), LAYER_TYPES[layers]), CRITERIA["large_final"])
    pruner.prune(Fraction(1, 2))
    due = sum(count_zeros(layer.weight.numel(), Fraction(1, 2)) for layer in pruner.layers)
    if pruner.n_weights - pruner.n_kept != due:
        raise ContractError(
            f"{pruner.n_weights - pruner.n_kept} of {pruner.n_weights} weights are gone; expected {due}"
        )


def built_from_the_seed(builder: Builder) -> None:
    """The same seed gives the same weights, another seed gives others; torch is the only random source."""
    models = [_build(builder, seed) for seed in (0, 0, 1)]
    if models[0] is models[1]:
        raise ContractError("called twice, it returns the same network; expected a new one each time")
    first, second, other = (model.state_dict() for model in models)
    if list(first) != list(second) or not all(torch.equal(first[name], second[name]) for name in first):
        raise ContractError("built twice after one torch.manual_seed, it has different weights; draw from torch only")
    if all(torch.equal(first[name], other[name]) for name in first):
        raise ContractError(
            "with another seed it has the same weights, so replicates would not differ; expected initial weights drawn "
            "from torch's global stream, without torch.manual_seed and without trained weights"
        )


def resumes_from_state(builder: Builder) -> None:
    """A new network with the stored `state_dict` gives the same outputs as the original."""
    saved, fresh = _build(builder), _build(builder, seed=1)
    fresh.load_state_dict(pickle.loads(pickle.dumps(saved.state_dict())))
    x = noise(_EVALUATED, *_case(builder)[0])
    with torch.no_grad():
        if not _alike(*(_outputs(model.eval(), x.clone(), builder) for model in (saved, fresh))):
            raise ContractError("its state_dict is incomplete: a restored network gives other outputs")


def refusal_of_one(builder: Builder, training: bool) -> str:
    """Why the network cannot take a batch of one image, such as "ValueError: Expected more than 1 value"; "" if it can.

    It takes larger batches, see the contracts.
    """
    model = _build(builder).train(training)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            _outputs(model, noise(1, *_case(builder)[0]), builder)
    except ContractError as error:
        return str(error)
    return ""


def _outputs(model: nn.Module, x: Tensor, builder: Builder, when: str = "") -> Tensor:
    """Scores (n, n_classes) of the images. Raises `ContractError` for anything else."""
    n, n_classes = len(x), _case(builder)[1]
    size = " x ".join(map(str, x.shape[1:]))
    try:
        with printing_aside():
            found: Any = model(x)
    except (Exception, SystemExit) as error:  # each network fails in its own way at what it cannot take
        reason = f"{type(error).__name__}: {words_of(error)}"
        raise ContractError(f"{when}it cannot take {_images(n)} of {size}: {reason}") from error
    expected = f"expected one tensor of [{n}, {n_classes}]"
    if not torch.is_tensor(found):
        raise ContractError(f"{when}it returns {_what(found)} for {_images(n)} of {n_classes} classes; {expected}")
    if tuple(found.shape) != (n, n_classes):
        raise ContractError(
            f"{when}for {_images(n)} of {n_classes} classes its output has the shape {list(found.shape)}; {expected}"
        )
    if not found.is_floating_point():
        raise ContractError(f"{when}its outputs are {found.dtype}; {expected}, of floats")
    return found


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n} images"


def _what(found: Any) -> str:
    return (
        f"a {type(found).__name__} of {len(found)}" if isinstance(found, tuple | list | dict) else type(found).__name__
    )


def _alike(one: Tensor, two: Tensor) -> bool:
    """Whether they differ by rounding only."""
    return torch.allclose(one, two, rtol=1e-3, atol=1e-5, equal_nan=True)


def _case(builder: Builder) -> tuple[Shape, int]:
    return (builder.shape, builder.n_classes) if isinstance(builder, For) else (_SHAPE, _N_CLASSES)


def _build(builder: Builder, seed: int = 0) -> nn.Module:
    """Build the network with `seed`, without changing torch's global random stream."""
    function = builder.builder if isinstance(builder, For) else builder
    try:
        check_call("it", function, "f(shape, n_classes)", *_case(builder))
    except UserError as error:
        own, library = getattr(function, "__name__", ""), str(getattr(function, "__module__", "")).partition(".")[0]
        advice = f"; did you mean {library}:{own}?" if library in LIBRARIES else ""
        raise ContractError(str(error).removeprefix("it: ") + advice) from error
    usual = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), printing_aside():
        torch.manual_seed(seed)
        try:
            model = builder(*_case(builder))
            changed = torch.get_default_dtype()
        finally:
            torch.set_default_dtype(usual)
    if changed != usual:
        raise ContractError(f"it sets torch's default type to {changed}; expected it left as it is")
    if not isinstance(model, nn.Module):
        raise ContractError(f"it returns {type(model).__name__}; expected a network (nn.Module)")
    _check_weights(model)
    return model


def _check_weights(model: nn.Module) -> None:
    """Raise `ContractError` unless all weights are there, on the CPU, in float32."""
    for name, tensor in model.named_parameters():
        if is_lazy(tensor):
            advice = "pass an image through it before you return it, model(torch.zeros(1, *shape))"
            raise ContractError(f"{name} has no shape yet (a lazy layer); expected weights; {advice}")
        if tensor.device.type != "cpu":
            raise ContractError(f"{name} is on the device {tensor.device}; expected cpu; the trial moves the network")
        if tensor.dtype != torch.float32:
            raise ContractError(f"{name} is of {tensor.dtype}; expected torch.float32")


CONTRACTS = as_contracts(answers_per_class, built_from_the_seed, trains, has_layers, resumes_from_state, serialisable)
