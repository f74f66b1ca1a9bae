"""A stack that validates on its way gives what members find that stop at each validation."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stacking.marks import AtMark
from lth_trainable.stacking.run import Run
from lth_trainable.store.store import Store
from lth_trainable.training.cohort import Cohort, run_cohort
from lth_trainable.training.execution import Execution
from lth_trainable.training.learner import Clock
from lth_trainable.training.requests import Measuring, Training
from lth_trainable.training.run import run_trial
from tests.support.cohorts import results, trained_together, turn_by_turn

K = 4
DENSE = TrialSpec(control="dense", epochs=3, batch_size=100, validate_every=4, lr=0.02)  # 12 batches, the last of 50
TICKET = TrialSpec(epochs=2, batch_size=100, rewind_step=5, target_sparsity_pct=64.0, validate_every=3, lr=0.05)
COHORTS: dict[str, list[TrialSpec]] = {
    "seeds": [replace(DENSE, seed=seed) for seed in range(3)],
    "validated at different batches": [replace(DENSE, validate_every=every) for every in (4, 1, 5, None)],
    "rewound into an epoch": [TICKET, replace(DENSE, epochs=6), replace(TICKET, seed=2, validate_every=7)],
    "some diverge": [
        replace(DENSE, optimizer="sgd", lr=lr, beta2=None, eps=None, seed=seed)
        for seed, lr in enumerate((0.05, 1e30, 30.0, 3e3))
    ],
    "no weight moves, so all losses are equal": [replace(DENSE, lr=1e-30, seed=seed) for seed in range(2)],
    "the loss rises": [replace(DENSE, lr=lr) for lr in (0.3, 0.9, 0.001)],
}  # fmt: skip
EXECUTION = Execution(replicas=K)


@pytest.mark.parametrize("cohort", COHORTS)
def test_records_are_those_of_members_that_stop_at_each_validation(
    cohort: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs, asked = COHORTS[cohort], counted(monkeypatch)
    on_the_way = trained_together(specs, tmp_path / "marks", EXECUTION)
    turns = len(asked)
    turn_by_turn(monkeypatch)
    stopping = trained_together(specs, tmp_path / "turns", EXECUTION)
    assert len(asked) - turns > turns
    for one, other in zip(on_the_way, stopping, strict=True):
        assert results(one) == results(other)
        assert one["right"] == other["right"]


def test_an_epoch_with_validations_is_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = counted(monkeypatch)
    trained_together([DENSE], tmp_path, EXECUTION)
    assert [type(request) for request in asked[: DENSE.epochs]] == [Training] * DENSE.epochs
    measured = asked[DENSE.epochs :]
    assert len(measured) == 3 and {type(request) for request in measured} == {Measuring}  # the end's, and early stop's


def test_a_member_goes_on_in_the_middle_of_a_level_with_the_lowest_loss_so_far(
    tmp_path: Path, every_epoch_is_stored: None
) -> None:
    """It stops after an epoch, beside others and at another point of theirs."""
    spec = replace(DENSE, lr=0.05, epochs=4)
    (whole,) = trained_together([spec], tmp_path / "whole", EXECUTION)

    class Stopped(Exception):
        pass

    def stop(key: str) -> None:
        raise Stopped(key)

    store = Store(tmp_path / "stopped")
    parts = [functools.partial(run_trial, spec, store, "r", EXECUTION, on_state=stop) for _ in range(2)]
    parts.append(functools.partial(run_trial, spec, store, "r", EXECUTION))
    for job in parts:
        other = functools.partial(run_trial, replace(TICKET, seed=3), Store(tmp_path / "other"), "r", EXECUTION)
        (_, outcome) = run_cohort([other, job], EXECUTION, spec)
        assert isinstance(outcome, dict | Stopped), outcome
    assert isinstance(outcome, dict) and outcome["epochs_trained"] == 2
    assert outcome["result"] == whole["result"] and outcome["sha256"] == whole["sha256"]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests that conductors serve from now on."""
    asked, serve = list[Any](), Cohort._serve

    def noted(cohort: Any, waiting: Any) -> Any:
        served = serve(cohort, waiting)
        asked.extend(seat.request for seat in served)
        return served

    monkeypatch.setattr(Cohort, "_serve", noted)
    return asked


def test_the_rest_of_a_run_is_compared_with_the_lowest_loss_of_its_beginning() -> None:
    run = Run(
        order=torch.zeros(6, dtype=torch.int64), sizes=(1,) * 6, draws=None, rates=(0.1,) * 6, seeds=(0,) * 6,
        marks=dict.fromkeys(range(1, 7), True), lowest=0.9,
    )  # fmt: skip
    learn = SimpleNamespace(dls=SimpleNamespace(valid=SimpleNamespace(n=10)))
    request = Training(learn=learn, run=run, factors={}, meanwhile=lambda: None)
    request.take(torch.zeros(1), [AtMark(9.5, 1, False)], request.run.split(1)[1])
    assert request.run.lowest == 0.9 and not request.keeps
    request.take(torch.zeros(3), [AtMark(6, 1, True), AtMark(7, 1, False), AtMark(5, 1, True)], request.run.split(3)[1])
    assert request.run.lowest == 0.5 and request.run.marks == {1: True, 2: True}
    request.take(torch.zeros(2), [AtMark(8, 1, False)] * 2, request.run.split(2)[1])
    assert request.run.lowest == 0.5 and request.keeps and request.is_served


def test_the_seeds_of_many_batches_are_those_of_each() -> None:
    clock = Clock(DENSE)
    for clock.stream in (0, 7, 2**63 - 4):
        found = clock.seeds_of(range(2, 9)).tolist()
        assert found == [clock.seed_of(number) for number in range(2, 9)] and min(found) >= 0
