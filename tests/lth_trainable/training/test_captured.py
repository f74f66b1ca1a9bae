"""An epoch on the device, with what a graph would hold run again in its place: the bytes of the ordinary loop.

Only a GPU has graphs (`test_fast_step.py`). What is around them needs none: which batch is next, its rate, its random
stream, the sums, and which callbacks act when.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fastai.callback.core import Callback, CancelFitException

from lth_trainable.data.datasets import load_dataset
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training import captured, compiled, compiler, learner
from lth_trainable.training.captured import CapturedSteps
from lth_trainable.training.execution import Execution, prepared
from lth_trainable.training.learner import LevelClock, TrialLearner
from lth_trainable.training.rate_on_device import RateOnDevice
from lth_trainable.training.run import run_trial
from lth_trainable.training.trial import Trial

TAIL = {"batch_size": 230, "epochs": 3, "target_sparsity_pct": 64}  # five batches of 1,150 images
CASES: dict[str, dict[str, Any]] = {
    "dense, cut batch": {"control": "dense", "batch_size": 250, "epochs": 3},
    "rewound to an epoch": {**TAIL, "rewind_epoch": 1},
    "rewound to an iteration": {**TAIL, "batch_size": 240, "rewind_epoch": "7it"},
    "a rate that moves, augmented": {**TAIL, "lr_policy": "cosine", "augment": "flip_shift", "rewind_epoch": 1},
    "validated often": {**TAIL, "validate_every": 2},
    "within a fit, sgd": {
        **TAIL, "epochs": 4, "schedule": "iterative", "optimizer": "sgd", "lr": 0.05, "lr_policy": "steps",
        "rewind_epoch": 1,
    },
    "momentum that cycles": {**TAIL, "lr_policy": "one_cycle", "rewind_epoch": 1},
    "momentum that cycles, sgd": {
        **TAIL, "lr_policy": "one_cycle", "optimizer": "sgd", "lr": 0.05, "rewind_epoch": "7it",
    },
    "random numbers in a step": {**TAIL, "model": "tests.plugins:dropout_lenet", "rewind_epoch": 1},
}  # fmt: skip


ORIGINAL_CAPTURE = CapturedSteps._capture


class AgainInPlaceOfGraph:
    """Stands in for a graph: a replay runs the block again."""

    def __init__(self, record: Any, replays: list[Any]) -> None:
        self.record, self.replays = record, replays

    def replay(self) -> None:
        self.replays.append(self)
        self.record()


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """From here on trials on the CPU are captured, as far as that goes; grows by one with each replay."""
    made: list[Any] = []

    def watched(self: CapturedSteps) -> None:
        self.learn.do_step()
        self._draws = True  # so every step is seeded

    def capture(self: CapturedSteps, record: Any) -> AgainInPlaceOfGraph:
        self._held = self._tensors()
        return AgainInPlaceOfGraph(record, made)

    monkeypatch.setattr(CapturedSteps, "_watch_step", watched)
    monkeypatch.setattr(CapturedSteps, "_capture", capture)
    monkeypatch.setattr(Trial, "captures_steps", True)
    return made


@pytest.fixture
def rate_in_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimisers as on a GPU, with the rate in float32, and momentum that cycles in a tensor too."""
    monkeypatch.setattr(learner, "OptimWrapper", RateOnDevice)
    make = learner.optimizer_of

    def as_on_a_gpu(spec: TrialSpec, *more: Any) -> Any:
        if spec.cycles_momentum:
            monkeypatch.setattr(learner, "FUSED", learner.CYCLED)
        return make(spec, *more)

    monkeypatch.setattr(learner, "optimizer_of", as_on_a_gpu)


@pytest.mark.parametrize("case", CASES)
def test_an_epoch_of_replays_has_the_bytes_of_the_ordinary_loop(
    case: str, tmp_path: Path, rate_in_a_tensor: None, request: pytest.FixtureRequest
) -> None:
    spec = TrialSpec(**CASES[case])
    eager = run_trial(spec, Store(tmp_path / "eager"))
    made = request.getfixturevalue("replays")
    found = run_trial(spec, Store(tmp_path / "captured"))
    assert found["sha256"] == eager["sha256"]
    n_steps = sum(row["iterations"] for row in found["epochs"])
    assert len(made) >= n_steps - 12, "all but the first step of each shape, and those of validations"
    without_time = [{k: v for k, v in row.items() if k != "seconds"} for row in found["epochs"]]
    assert without_time == [{k: v for k, v in row.items() if k != "seconds"} for row in eager["epochs"]]


def test_a_network_that_is_compiled_has_one_eager_step_more_and_the_same_bytes(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler may wait for the device. Here it runs PyTorch's kernels; `test_fast_step.py` has the real one."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    monkeypatch.setattr(compiler, "_missing_on_cpu", lambda: None)
    spec, execution = TrialSpec(**TAIL, rewind_epoch=1), Execution(compile=True)
    eager = run_trial(spec, Store(tmp_path / "eager"), execution=execution)
    made, steps = request.getfixturevalue("replays"), []
    step, watched = TrialLearner.do_step, CapturedSteps._watch_step

    def counted(self: TrialLearner) -> None:
        steps.append("step")
        step(self)

    def watched_too(self: CapturedSteps) -> None:
        steps.append("watched")
        watched(self)

    monkeypatch.setattr(TrialLearner, "do_step", counted)
    monkeypatch.setattr(CapturedSteps, "_watch_step", watched_too)
    found = run_trial(spec, Store(tmp_path / "captured"), execution=execution)
    assert found["sha256"] == eager["sha256"] and found["fingerprint"]["compiled"] and made
    assert steps[:3] == ["step", "watched", "step"], "compiled, watched, then replays"


class Batches(Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[int, bool, float]] = []

    def after_batch(self) -> None:
        self.seen.append((len(self.learn.xb[0]), self.learn.training, float(self.learn.loss)))


def test_what_fastai_counts_of_batches_is_counted(replays: list[Any]) -> None:
    with prepared(Execution(), "fp32"):
        trial = Trial(TrialSpec(control="dense", epochs=2, batch_size=230), load_dataset("digits"), Execution(), None)
        trial.fit(0, 2, LevelClock())
    assert trial.learn.train_iter == 10 and trial.learn.pct_train == pytest.approx(1.0)
    assert len(replays) == 9 + 1  # the second validation


def test_a_callback_around_each_batch_gets_it_from_the_loader(replays: list[Any]) -> None:
    witness = Batches()
    with prepared(Execution(), "fp32"):
        trial = Trial(TrialSpec(control="dense", epochs=2, batch_size=230), load_dataset("digits"), Execution(), None)
        trial.fit(0, 2, LevelClock(), witness)
    assert [each[:2] for each in witness.seen] == ([(230, True)] * 5 + [(287, False)]) * 2
    assert captured.say_when(trial.learn, "after_batch")
    assert torch.isfinite(torch.tensor([loss for *_, loss in witness.seen])).all()


def test_after_a_capture_that_fails_nothing_is_replayed_any_more(
    replays: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs share their memory. Here that of the validation fails, in the second epoch."""
    capture = CapturedSteps._capture

    class Refuses:
        def __init__(self, pool: Any) -> None: ...

        def captured(self) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing")

    def only_steps(self: CapturedSteps, record: Any) -> Any:
        of_validation = getattr(record, "__name__", "") == "record"
        return ORIGINAL_CAPTURE(self, record) if of_validation else capture(self, record)

    monkeypatch.setattr(captured, "Graph", Refuses)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(CapturedSteps, "_capture", only_steps)
    monkeypatch.setattr(CapturedSteps, "broken", None)
    with prepared(Execution(), "fp32"):
        trial = Trial(TrialSpec(control="dense", epochs=4, batch_size=230), load_dataset("digits"), Execution(), None)
        trial.fit(0, 4, LevelClock())
    assert len(replays) == 9 and trial.captured is not None and not trial.captured._replays
    (note,) = trial.notes
    assert note.endswith("runs eagerly: operation not permitted when stream is capturing")


def test_an_epoch_that_ends_within_leaves_the_rate_of_its_last_batch(
    replays: list[Any], rate_in_a_tensor: None
) -> None:
    class Ends(Callback):
        def acts_at(self, event: str, n_iter: int) -> set[int]:
            return {3} if event == "before_batch" else set()

        def before_batch(self) -> None:
            if self.learn.training and self.learn.iter == 3:
                raise CancelFitException

    with prepared(Execution(), "fp32"):
        spec = TrialSpec(control="dense", epochs=2, batch_size=230, lr_policy="one_cycle")
        trial = Trial(spec, load_dataset("digits"), Execution(), None)
        trial.fit(0, 2, LevelClock(), Ends())
    optimizer = trial.learn.opt
    assert optimizer.rates == pytest.approx([float(rate) for rate in optimizer.on_device], rel=1e-6)
    assert optimizer.hypers[0]["mom"] == float(optimizer.opt.momentum_now) != spec.momentum
