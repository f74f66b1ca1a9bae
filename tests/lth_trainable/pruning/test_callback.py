"""What the callback prunes: which layers, to which targets, by which scores; and the tickets it leaves."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import squeezenet1_1

from lth_trainable import (
    Schedule,
    SparsifyCallback,
    UserError,
    large_final,
    load_ticket,
    save_ticket,
    sched_agp,
    sched_iterative,
    sched_one_shot,
    wanda,
)
from lth_trainable.pruning.layers import PRUNABLE, left_out, prunable_layers
from lth_trainable.pruning.pruner import Pruner
from tests.plugins import tiny_cnn
from tests.support.callback import callback, learner, tensors, zeros_hold


def test_tied_weights_count_once_and_frozen_groups_are_pruned(capsys: pytest.CaptureFixture[str]) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
            self.b.weight = self.a.weight

        def forward(self, x: Any) -> Any:
            return self.head(self.b(self.a(x.flatten(1)).relu()).relu())

    torch.manual_seed(0)
    model = Tied()
    for parameter in model.a.parameters():
        parameter.requires_grad_(False)
    learn, cb = learner(model), callback(50, lth=True, verbose=True)
    learn.fit(8, 1e-2, cbs=cb)
    assert [layer.name for layer in cb.pruner.layers] == ["a", "head"] and zeros_hold(cb)
    assert "Left out: b (Linear), shares its weight with a" in capsys.readouterr().out


def test_torchvision_models_with_frozen_groups() -> None:
    model = squeezenet1_1(num_classes=10)
    assert len(prunable_layers(model)) == 26 and not left_out(model)
    for parameter in model.features[:3].parameters():
        parameter.requires_grad_(False)
    pruner = Pruner(prunable_layers(model), large_final)
    pruner.prune(Fraction(1, 2))
    assert abs(pruner.sparsity_pct - 50) < 0.01


def test_a_target_for_each_layer() -> None:
    learn = learner()
    cb = SparsifyCallback({"0": 30, "4": 60}, "weight", "local", large_final, Schedule(sched_agp), verbose=False)
    learn.fit(8, 1e-2, cbs=cb)
    assert cb.pruner.counts == {"0.weight": 54 - 16, "4.weight": 432 - 259} and zeros_hold(cb)
    only = SparsifyCallback({"4*": 50}, "weight", "local", large_final, Schedule(sched_agp), verbose=False)
    learner().fit(8, 1e-2, cbs=only)
    assert list(only.pruner.counts) == ["4.weight"]
    with pytest.raises(UserError, match="sparsity of a layer: found 'conv9'; expected one of 0, 4"):
        learner().fit(8, cbs=SparsifyCallback({"conv9": 50}, "weight", "local", large_final, Schedule(sched_agp)))
    with pytest.raises(UserError, match="nothing to rank together"):
        SparsifyCallback({"0": 50}, "weight", "global", large_final, Schedule(sched_agp))


def test_layers_by_pattern_or_predicate() -> None:
    for select in ("4", ["4"], lambda name, module: getattr(module, "stride", None) == (2, 2)):
        cb = callback(50, layers=select)
        learner().fit(8, 1e-2, cbs=cb)
        assert list(cb.pruner.counts) == ["4.weight"]
    with pytest.raises(UserError, match="found no layer to prune"):
        learner().fit(8, 1e-2, cbs=callback(50, layers="no_such_layer"))


def test_wanda_weighs_by_the_inputs_and_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    learn = learner(model)
    cb = SparsifyCallback(50, "weight", "local", wanda, Schedule(sched_one_shot, start_pct=0.0), verbose=False)
    before = {name: t for name, t in tensors(model).items() if name == "1.weight"}
    learn.fit(1, 1e-9, cbs=cb)
    x = torch.cat([b[0] for b in learn.dls.train.new(shuffle=False)]).flatten(1)
    scores = before["1.weight"].abs() * x.double().square().mean(0).sqrt().float()
    expected = torch.ones(scores.numel(), dtype=torch.bool)
    expected[scores.flatten().argsort(stable=True)[:512]] = False
    assert (cb.pruner.in_force["1.weight"].ravel() == expected.numpy()).mean() > 0.995
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_wanda_on_every_kind_of_layer() -> None:
    class All(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
            self.up = nn.ConvTranspose2d(8, 5, 2, stride=2)
            self.head = nn.Linear(5, 2)

        def forward(self, x: Any) -> Any:
            return self.head(self.up(self.grouped(self.first(x))).mean((2, 3)))

    model = All()
    pruner = Pruner(prunable_layers(model, PRUNABLE), wanda)
    pruner.prune(Fraction(1, 2), model, lambda: [torch.randn(4, 3, 8, 8)])
    assert pruner.sparsity_pct == 50 and model.training


def test_dsd_grows_the_best_of_what_it_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the score that each had when it was removed: a removed weight is zero and has none of its own."""
    model = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.8, 0.1, 0.7, 0.2, 0.6, 0.3, 0.5, 0.4]]))
    pruner = Pruner(prunable_layers(model), large_final, regrows=True)
    for sparsity in (Fraction(1, 4), Fraction(3, 4), Fraction(1, 2)):
        pruner.prune(sparsity)
    assert pruner.in_force["weight"].ravel().tolist() == [True, False, True, False, True, False, True, False]


def test_a_network_that_does_not_classify_still_ends_its_fit(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    learn = learner(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), loss_func=lambda p, y: (p[:, 0] - y).square().mean())
    learn.fit(8, 1e-3, cbs=callback(50, lth=True, reset_end=True, verbose=True))
    assert "Final Sparsity: 50.00%" in capsys.readouterr().out


def test_schedules_of_partial_functions_name_themselves() -> None:
    assert repr(Schedule(partial(sched_iterative, n_steps=5))) == "Schedule(iterative, start_pct=0.2, end_pct=1)"


@pytest.mark.parametrize("tied", [False, True])
def test_tickets_whose_parts_share_memory_can_be_saved(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    if tied:
        model[3].weight = model[1].weight
    learn, cb = learner(model), callback(50, lth=True, rewind_epoch=0)
    learn.fit(8, 1e-2, cbs=cb)
    back = load_ticket(save_ticket(cb.ticket(), tmp_path / "ticket.safetensors"))
    assert all(torch.equal(back.rewind[name], tensor) for name, tensor in back.initial.items())


def test_a_ticket_goes_to_a_file_and_back(tmp_path: Path) -> None:
    learn, cb = learner(), callback(80, lth=True, rewind_epoch=1)
    with pytest.raises(UserError, match="pruned nothing yet"):
        cb.ticket()
    start = {name: t.clone() for name, t in learn.model.state_dict().items()}
    learn.fit(8, 1e-2, cbs=cb)
    ticket = cb.ticket()
    path = save_ticket(ticket, tmp_path / "ticket.safetensors")
    back = load_ticket(path)
    assert back.provenance == ticket.provenance and back.provenance["criterion"] == "large_final"
    assert all((back.masks[name] == mask).all() for name, mask in ticket.masks.items())
    for part, expected in (("initial", start), ("final", learn.model.state_dict())):
        assert all(torch.equal(t, expected[name]) for name, t in getattr(back, part).items())
    model = back.apply(tiny_cnn((1, 8, 8), 10), "rewind")
    assert (model.get_parameter("4.weight")[~torch.from_numpy(back.masks["4.weight"])] == 0).all()
    assert save_ticket(back, tmp_path / "again").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "ticket.safetensors"]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read as a ticket"):
        load_ticket(path)
    with pytest.raises(UserError, match="cannot be read as a ticket"):
        load_ticket(tmp_path / "missing")
