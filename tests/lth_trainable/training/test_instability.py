"""Copies of a ticket and the straight line between them: exact where it is exact."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lth_trainable.training.learner
from analysis.barriers.networks import barrier_of
from analysis.barriers.targets import why_not
from lth_trainable.data.loaders import ResidentLoader
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.store.trials import load_trial
from lth_trainable.training.copy_task import check_here
from lth_trainable.training.execution import Execution
from lth_trainable.training.instability import Copy, Start, alphas, between, errors_between, train_copy
from lth_trainable.training.lifecycle import Keep
from lth_trainable.training.measure import measure
from lth_trainable.training.run import run_trial
from tests.support import barriers
from tests.support.barriers import BASE, CONTROLS, DENSE, STEPS, TICKETS, job_of, start_of, train_run, write_plan


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def pair(trained: Path) -> tuple[Start, Copy, Copy]:
    start = start_of(trained, "1")
    return start, train_copy(start, 1001), train_copy(start, 1002)


# -- copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [*TICKETS, *CONTROLS])
def test_a_copy_with_the_trials_own_seed_is_the_trial_bit_for_bit(trained: Path, which: str) -> None:
    spec = (TICKETS | CONTROLS)[which]
    ticket = load_trial(trained / "trials" / spec.name).state_dict()
    found = train_copy(start_of(trained, which), spec.seed).tensors
    assert set(ticket) <= set(found)
    assert all(torch.equal(found[name], tensor) for name, tensor in ticket.items())


@pytest.mark.parametrize("which", ["0", "1", "7it"])
def test_a_dense_copy_with_its_own_seed_is_the_dense_trial(trained: Path, which: str) -> None:
    dense = load_trial(trained / "trials" / DENSE.name).state_dict()
    found = train_copy(start_of(trained, which, dense=True), 0).tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in dense.items())


@pytest.mark.parametrize("fields", [{"retrain_order": "new"}, {"control": "reinit", "control_lr": 0.05}])
def test_a_copy_has_the_order_and_the_rate_of_its_trial(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TrialSpec(**BASE, rewind_epoch=1, **fields)
    monkeypatch.setattr(barriers, "TICKETS", {"own": spec})
    monkeypatch.setattr(barriers, "SPECS", [DENSE, spec])
    run = train_run(tmp_path)
    found = train_copy(start_of(run, "own"), spec.seed).tensors
    ticket = load_trial(run / "trials" / spec.name).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in ticket.items())


def test_a_copy_of_a_trial_in_a_stack_is_trained_in_a_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {**BASE, "lr_policy": "constant", "epochs": 1, "target_sparsity_pct": 40.0}
    spec = TrialSpec(**fields, rewind_epoch=0)
    monkeypatch.setattr(barriers, "TICKETS", {"own": spec})
    monkeypatch.setattr(barriers, "SPECS", [TrialSpec(**fields, control="dense"), spec])
    monkeypatch.setattr(barriers, "run_trial", functools.partial(run_trial, execution=Execution(replicas=2)))
    run = train_run(tmp_path)
    job = job_of(run, "own")
    found, ticket = train_copy(job.start, spec.seed).tensors, load_trial(run / "trials" / spec.name).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in ticket.items())
    task = job.task(spec.seed)
    check_here(task, task.execution(None))


@pytest.mark.parametrize("control", ["sign_flip", "new_magnitudes", "constant_magnitude"])
def test_weights_that_are_not_stored_are_no_start(control: str) -> None:
    assert "not stored" in str(why_not(TrialSpec(control=control)))


def test_a_copy_repeats_and_another_order_seed_gives_another(pair: tuple[Start, Copy, Copy]) -> None:
    start, a, b = pair
    again = train_copy(start, 1001)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in a.tensors.items())
    assert again.evaluation == a.evaluation
    assert any(not torch.equal(b.tensors[name], tensor) for name, tensor in a.tensors.items())


def test_dropout_is_of_the_order_seed_too(pair: tuple[Start, Copy, Copy], monkeypatch: pytest.MonkeyPatch) -> None:
    streams: dict[int, set[int]] = {}
    for seed in (1001, 1002):
        seen = streams.setdefault(seed, set())
        monkeypatch.setattr(lth_trainable.training.learner, "seed_torch", lambda value, _, seen=seen: seen.add(value))
        train_copy(pair[0], seed)
    assert len(streams[1001]) == len(streams[1002]) == 2 * STEPS
    assert not streams[1001] & streams[1002]


# -- the line --------------------------------------------------------------------------------------------------------


def test_the_ends_of_the_line_are_the_copies(pair: tuple[Start, Copy, Copy]) -> None:
    start, a, b = pair
    curves = errors_between(start, a.tensors, b.tensors, 3)
    train = ResidentLoader(start.origin.dls.train.dataset, 1024)
    for index, found in ((0, a), (-1, b)):
        assert curves["test", "raw"][index] == 100 * (1 - found.evaluation["test"][1])
        network = copy.deepcopy(start.origin.model)
        network.load_state_dict(found.tensors)
        assert curves["train", "raw"][index] == 100 * (1 - measure(network, train, nn.CrossEntropyLoss()).accuracy)


def test_equal_copies_have_no_barrier_anywhere(pair: tuple[Start, Copy, Copy]) -> None:
    start, a, _ = pair
    for errors in errors_between(start, a.tensors, a.tensors, 5).values():
        assert len(set(errors)) == 1
        assert barrier_of(errors, alphas(5))["barrier_pp"] == 0


def test_the_line_is_exact_at_its_ends_and_halfway(pair: tuple[Start, Copy, Copy]) -> None:
    _, a, b = pair
    for alpha, expected in ((0.0, a), (1.0, b)):
        found = between(a.tensors, b.tensors, alpha)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.tensors.items())
    name = "1.running_mean"
    middle = (a.tensors[name].double() + b.tensors[name].double()) / 2
    torch.testing.assert_close(between(a.tensors, b.tensors, 0.5)[name].double(), middle, rtol=1e-6, atol=0)


def test_what_the_mask_removes_is_zero_on_all_the_line(pair: tuple[Start, Copy, Copy]) -> None:
    start, a, b = pair
    for alpha in alphas(30):
        found = between(a.tensors, b.tensors, alpha)
        for name, mask in start.masks.items():
            assert np.count_nonzero(found[name].numpy()[~mask]) == 0
            assert np.count_nonzero(found[name].numpy()[mask]) > 0.9 * mask.sum()


def test_recomputed_statistics_are_those_of_a_pass_over_the_training_data(pair: tuple[Start, Copy, Copy]) -> None:
    start, a, b = pair
    network = copy.deepcopy(start.origin.model)
    network.load_state_dict(a.tensors)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batches = ResidentLoader(start.origin.dls.train.dataset, 230, order_seed=0)
    torch.optim.swa_utils.update_bn(batches, network)  # torch's own pass, all of the network in training mode
    assert not torch.equal(network[1].running_mean, a.tensors["1.running_mean"])
    wanted = 100 * (1 - measure(network, start.origin.dls[2], nn.CrossEntropyLoss()).accuracy)
    assert errors_between(start, a.tensors, b.tensors, 3)["test", "recomputed"][0] == wanted


def test_a_run_that_kept_weights_alone_starts_from_initialisation_only(tmp_path: Path) -> None:
    for spec in (TICKETS["0"], TICKETS["1"]):
        run_trial(spec, Store(tmp_path), "run", keep=Keep(states={}, resumable=False))
    write_plan(tmp_path)
    assert not train_copy(start_of(tmp_path / "run", "0"), 1001).diverged
    with pytest.raises(UserError, match="--keep-states none"):
        start_of(tmp_path / "run", "1")
