"""Members of a cohort are trained in turns, and end as they would alone.

Here the networks of a cohort lie side by side (`SeparateStack`), so their bytes are those of trials alone. Their masks
are found in one pass, as on a GPU.
"""

from __future__ import annotations

import functools
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fastai.callback.core import Callback

from lth_trainable.errors import NoRoom
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stacking.run import NotStackable
from lth_trainable.store.store import Store
from lth_trainable.training import cohort, trial
from lth_trainable.training.cohort import current_seat, run_cohort
from lth_trainable.training.execution import Execution
from lth_trainable.training.requests import Pausing
from lth_trainable.training.run import run_trial
from lth_trainable.training.trial import Trial
from tests.support.cohorts import results, trained_together
from tests.support.grids import GRIDS
from tests.support.separate_stack import SeparateStack

K = 4
FAST = ("validated often",)


@pytest.fixture(autouse=True)
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "Stack", SeparateStack)
    monkeypatch.setattr(cohort, "_kept", [])
    monkeypatch.setattr(trial, "RANKS_TOGETHER", ("cpu",))


@pytest.mark.parametrize("grid", [pytest.param(g, marks=() if g in FAST else pytest.mark.slow) for g in GRIDS])
def test_trials_of_a_cohort_end_as_trials_alone(grid: str, tmp_path: Path) -> None:
    specs = list(dict.fromkeys(TrialSpec(**fields) for fields in GRIDS[grid]))[: K if grid in FAST else None]
    together = trained_together(specs, tmp_path / "together", Execution(replicas=K))
    for spec, record in zip(specs, together, strict=True):
        alone = run_trial(spec, Store(tmp_path / "alone" / spec.name), "r")
        assert results(alone) == results(record), spec.name


@pytest.mark.parametrize("reverse", [False, True])
def test_members_at_different_batches_of_an_epoch_lose_no_step(reverse: bool, tmp_path: Path) -> None:
    """The ticket starts its levels at the third batch, so one comes to its last, smaller batch before the other."""
    ticket = TrialSpec(epochs=1, rewind_step=2, prune_rate_pct=40.0, target_sparsity_pct=64.0)
    specs = [ticket, TrialSpec(control="dense", epochs=3, seed=1)][:: -1 if reverse else 1]
    for spec, record in zip(specs, trained_together(specs, tmp_path / "together", Execution(replicas=K)), strict=True):
        alone = run_trial(spec, Store(tmp_path / "alone" / spec.name), "r")
        assert results(alone) == results(record), spec.name


def test_steps_and_measurements_of_members_are_done_together(tmp_path: Path) -> None:
    specs = [TrialSpec(control="dense", epochs=2, seed=seed, validate_every=10) for seed in range(3)]
    trained_together(specs, tmp_path, Execution(replicas=K))
    assert {slots for _, slots in SeparateStack.calls} == {(0, 1, 2)}
    kinds = [kind for kind, _ in SeparateStack.calls]
    assert kinds[:3] == ["train", "train", "evaluate"], "an epoch with a mark and a smaller last batch is one call"


def test_a_member_that_fails_or_diverges_or_ends_early_does_not_disturb_the_others(tmp_path: Path) -> None:
    spec = TrialSpec(control="dense", epochs=3, optimizer="sgd", lr=0.05)
    alone = run_trial(spec, Store(tmp_path / "alone"), "r")
    execution = Execution(replicas=4)

    def member(spec: TrialSpec) -> Any:
        return functools.partial(run_trial, spec, Store(tmp_path / spec.name), "r", execution)

    def failing(rows: list[dict[str, Any]]) -> None:
        raise ValueError("in its first epoch")

    bad = TrialSpec(control="dense", epochs=3, optimizer="sgd", lr=0.01)
    jobs = [
        functools.partial(run_trial, bad, Store(tmp_path / "bad"), "r", execution, failing),
        member(TrialSpec(control="dense", epochs=3, optimizer="sgd", lr=1e30)), member(spec),
        member(TrialSpec(control="dense", epochs=1, optimizer="sgd", lr=0.05)),
    ]  # fmt: skip
    failed, diverged, whole, short = run_cohort(jobs, execution, spec)
    assert isinstance(failed, ValueError)
    assert diverged["status"] == "diverged" and short["status"] == "done"
    assert results(whole) == results(alone)


def test_what_is_raised_between_steps_ends_all_members_and_leaves_no_thread(tmp_path: Path) -> None:
    specs = [TrialSpec(control="dense", epochs=2, seed=seed) for seed in range(2)]
    execution, calls = Execution(replicas=2), iter(range(3))

    def between() -> None:
        if next(calls) == 2:
            raise SystemExit

    before = threading.active_count()
    with pytest.raises(SystemExit):
        run_cohort(
            [functools.partial(run_trial, s, Store(tmp_path / s.name), "r", execution) for s in specs],
            execution, specs[0], between,
        )  # fmt: skip
    assert threading.active_count() == before


def test_a_trial_with_replicas_that_is_run_alone_is_a_cohort_of_one(tmp_path: Path) -> None:
    spec = TrialSpec(control="dense", epochs=1)
    record = run_trial(spec, Store(tmp_path), "r", Execution(replicas=3))
    assert record["fingerprint"]["replicas"] == 3 and SeparateStack.calls[0] == ("train", (0,))


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
def test_what_ends_a_trial_that_is_run_alone_ends_it_in_a_cohort_of_one_too(
    error: BaseException, tmp_path: Path
) -> None:
    def ending(rows: list[dict[str, Any]]) -> None:
        raise error

    with pytest.raises(type(error)):
        run_trial(TrialSpec(control="dense", epochs=1), Store(tmp_path), "r", Execution(replicas=2), ending)


def test_ctrl_c_while_a_member_runs_ends_it_where_it_would_wait() -> None:
    spec, ended = TrialSpec(control="dense"), list[str]()

    def job() -> None:
        seat = current_seat()
        assert seat is not None
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        until = time.monotonic() + 60
        while not seat.cohort.is_over and time.monotonic() < until:
            time.sleep(0.01)
        try:
            seat.ask(Pausing(learn=None))
        finally:
            ended.append("once")
            seat.ask(Pausing(learn=None))  # what cleans up may ask for something

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests before this one may have set another
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        with pytest.raises(KeyboardInterrupt):
            run_cohort([job], Execution(replicas=2), spec)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    assert ended == ["once"]


def test_the_stack_of_a_cohort_that_broke_is_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    spec, execution = TrialSpec(control="dense", epochs=1), Execution(replicas=2)
    run_trial(spec, Store(tmp_path / "first"), "r", execution)
    assert cohort._kept
    monkeypatch.setattr(SeparateStack, "train", broken)
    with pytest.raises(RuntimeError, match="no such kernel"):
        run_trial(spec, Store(tmp_path / "second"), "r", execution)
    assert not cohort._kept


class Shrinking(Callback):
    """Changes the network at some batches, between the mark there and what comes next."""

    order = 5

    def acts_at(self, event: str, n_iter: int) -> set[int]:
        return {3, 6, 11} if event == "after_batch" else set()

    def after_batch(self) -> None:
        if self.learn.training and self.learn.iter in self.acts_at("after_batch", 12):
            with torch.no_grad():
                for value in self.learn.model.parameters():
                    value.mul_(0.5)


class BeforeValidation(Callback):
    """Changes the network after an epoch's last batch, before its validation."""

    def after_train(self) -> None:
        with torch.no_grad():
            for value in self.learn.model.parameters():
                value.mul_(0.5)


@pytest.mark.parametrize("kind", [Shrinking, BeforeValidation])
def test_what_other_callbacks_do_at_a_mark_or_before_the_validation_is_measured(
    kind: type[Callback], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = Trial.__init__

    def with_callback(trial: Trial, *arguments: Any) -> None:
        init(trial, *arguments)
        trial.learn.add_cb(kind())

    spec = TrialSpec(control="dense", epochs=3, batch_size=100, validate_every=4, lr=0.02)
    without = run_trial(spec, Store(tmp_path / "without"), "r")
    monkeypatch.setattr(Trial, "__init__", with_callback)
    alone = run_trial(spec, Store(tmp_path / "alone"), "r")
    (together,) = trained_together([spec], tmp_path / "together", Execution(replicas=K))
    assert results(together) == results(alone) != results(without)
    assert together["right"] == alone["right"]


def test_a_stack_is_kept_for_trials_of_its_shape_and_freed_before_others_begin(tmp_path: Path) -> None:
    def train(store: str, replicas: int = 2, **fields: Any) -> Any:
        spec = TrialSpec(**{"control": "dense", "epochs": 1, **fields})
        run_trial(spec, Store(tmp_path / store), "r", Execution(replicas=replicas))
        return cohort._kept[0][1] if cohort._kept else None

    first = train("first")
    assert first is not None and train("of another seed", seed=1) is first
    began, serve = list[Any](), cohort.Cohort._serve

    def noting(conductor: Any, waiting: Any) -> Any:
        began.append(list(cohort._kept))
        return serve(conductor, waiting)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort.Cohort, "_serve", noting)
        other = train("of another batch size", batch_size=100)
    assert began[0] == [] and other is not None and other is not first
    assert train("without a stack", replicas=1) is None


def test_a_trial_whose_momentum_moves_neither_trains_nor_validates_in_a_stack(tmp_path: Path) -> None:
    spec = TrialSpec(control="dense", epochs=2, lr_policy="one_cycle", validate_every=5)
    SeparateStack.calls = []
    record = run_trial(spec, Store(tmp_path / "replicas"), "r", Execution(replicas=2))
    assert SeparateStack.calls == []
    assert results(record) == results(run_trial(spec, Store(tmp_path / "alone"), "r"))


def test_whether_networks_can_be_stacked_is_tried_with_nobodys_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def refused(model: torch.nn.Module, *_: Any) -> None:
        tried.append([value.detach().clone() for value in model.parameters()])
        raise NotStackable("it asks for the weather")

    monkeypatch.setattr(cohort, "Stack", refused)
    for seed in range(2):
        run_trial(TrialSpec(control="dense", epochs=1, seed=seed), Store(tmp_path), "r", Execution(replicas=2))
    assert all(map(torch.equal, *tried))


def test_a_full_memory_is_not_taken_for_a_network_that_cannot_be_stacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise NotStackable("vmap cannot run it") from RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(cohort, "Stack", full)
    with pytest.raises(NoRoom):
        run_trial(TrialSpec(control="dense", epochs=1), Store(tmp_path), "r", Execution(replicas=2))


def test_networks_that_cannot_be_stacked_are_trained_one_after_another_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise NotStackable("it asks for the weather")

    monkeypatch.setattr(cohort, "Stack", refused)
    specs, notes = [TrialSpec(control="dense", epochs=2, seed=seed) for seed in range(2)], list[str]()
    execution, epochs = Execution(replicas=2), list[str]()
    jobs = [
        functools.partial(
            run_trial, s, Store(tmp_path / s.name), "r", execution, lambda rows: epochs.append(rows[-1]["trained_by"]),
            on_note=notes.append,
        )
        for s in specs
    ]  # fmt: skip
    records = run_cohort(jobs, execution, specs[0], lambda: epochs.append("between"))
    names = [spec.name for spec in specs]
    turns = [line for line in epochs if line != "between"]
    assert turns == [*names, *names] and epochs.index("between", epochs.index(names[1])) < len(epochs) - 2, epochs
    for spec, record in zip(specs, records, strict=True):
        assert not isinstance(record, BaseException)
        alone = run_trial(spec, Store(tmp_path / "alone" / spec.name), "r")
        assert results(record) == results(alone)
    assert len(notes) == 2 and all("it asks for the weather" in note for note in notes)
