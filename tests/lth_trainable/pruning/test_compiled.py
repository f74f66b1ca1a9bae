"""Compiled networks: names are those of the network as it was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lth_trainable import KeepTicket, Schedule, SparsifyCallback, find_tickets, large_final, sched_one_shot, wanda
from lth_trainable.pruning.layers import left_out, prunable_layers
from lth_trainable.pruning.pruner import Pruner
from tests.plugins import tiny_cnn
from tests.support.callback import learner, tensors, zeros_hold

HALF = Schedule(sched_one_shot, start_pct=0.5)


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")  # needs no compiler


def whole(model: nn.Sequential) -> nn.Module:
    return compiled(model)


def one_layer(model: nn.Sequential) -> nn.Module:
    model[0], model[4] = compiled(model[0]), compiled(model[4])
    return model


def block(model: nn.Sequential) -> nn.Module:
    """A compiled part, in a compiled network, in a wrapper."""
    return nn.DataParallel(compiled(nn.Sequential(compiled(nn.Sequential(*model[:5])), nn.Sequential(*model[5:]))))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return tiny_cnn((1, 8, 8), 10)


def plain_block(model: nn.Sequential) -> nn.Module:
    return nn.Sequential(nn.Sequential(*model[:5]), nn.Sequential(*model[5:]))


CASES = [(whole, lambda model: model), (one_layer, lambda model: model), (block, plain_block)]


@pytest.fixture(params=CASES, ids=lambda case: case[0].__name__)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """A network with something compiled, and the same one without."""
    wrap, plain = request.param
    return wrap(network()), plain(network())


def fit(model: nn.Module, layers: str, criterion: Callable[..., Any] = large_final) -> tuple[Any, SparsifyCallback]:
    learn = learner(model)
    cb = SparsifyCallback(50, "weight", "local", criterion, HALF, lth=True, layers=layers, verbose=False)
    learn.fit(2, 1e-2, cbs=cb)
    return learn, cb


@pytest.mark.parametrize("criterion", [large_final, wanda], ids=["magnitude", "wanda"])
def test_names_masks_and_weights_are_those_of_the_plain_network(
    pair: tuple[nn.Module, nn.Module], criterion: Callable[..., Any]
) -> None:
    ours, plain = pair
    layer = "0.4" if isinstance(ours, nn.DataParallel) else "4"
    (learn, cb), (_, reference) = (fit(model, layer, criterion) for model in pair)
    assert zeros_hold(cb) and list(cb.pruner.counts) == [f"{layer}.weight"]
    ticket, expected = cb.ticket(), reference.ticket()
    for part in ("initial", "rewind", "final"):
        found, wanted = getattr(ticket, part), getattr(expected, part)
        assert list(found) == list(wanted) and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert (ticket.masks[f"{layer}.weight"] == expected.masks[f"{layer}.weight"]).all()
    assert ticket.provenance["model"] == "Sequential" and cb.supermask().found.raw == reference.supermask().found.raw
    again = learner(plain)
    again.fit(1, 1e-2, cbs=KeepTicket(ticket))
    assert again.sparsity == 50
    expected.apply(learn.model, "initial")
    assert all(torch.equal(t, cb.initial.tensors[n]) for n, t in expected.initial.items() if n != f"{layer}.weight")


def test_a_dict_names_the_layers_inside(pair: tuple[nn.Module, nn.Module]) -> None:
    names = [layer.name for layer in prunable_layers(pair[1])]
    assert [layer.name for layer in prunable_layers(pair[0])] == names
    assert [layer.name for layer, _ in left_out(pair[0])] == [layer.name for layer, _ in left_out(pair[1])]
    learn = learner(pair[0])
    learn.sparsify({names[0]: 50, names[1]: 80})
    assert list(learn.sparsify_callback.pruner.counts) == [f"{name}.weight" for name in names]


def test_levels_of_a_compiled_network() -> None:
    settings: dict[str, Any] = {"prune_rate": 40.0, "rewind_epoch": 1, "levels": 1, "epochs": 2, "lr": 1e-2}
    found, expected = (
        list(find_tickets(learner(model()), **settings)) for model in (lambda: compiled(network()), network)
    )
    assert [level.sparsity for level in found] == [level.sparsity for level in expected]
    assert all(torch.equal(t, expected[1].ticket.final[n]) for n, t in found[1].ticket.final.items())


def test_a_mask_stays_when_the_network_is_compiled_after_it() -> None:
    learn = learner(network())
    learn.sparsify(50)
    learn.model = compiled(learn.model)
    learn.fit(1, 1e-1)
    assert learn.sparsity == 50 and zeros_hold(learn.sparsify_callback)
    assert all(name.split(".")[0] != "_orig_mod" for name in Pruner(prunable_layers(learn.model), large_final).counts)
    assert any(name.startswith("_orig_mod.") for name in tensors(learn.model))
