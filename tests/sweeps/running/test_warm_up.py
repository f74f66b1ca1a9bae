"""What a worker does until its first trial, and who does it."""

from __future__ import annotations

import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lth_trainable.training.warm_up
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.training.execution import Execution
from sweeps.running import warm_up
from sweeps.running.needs import needs_of, warm_up_of
from sweeps.running.packing import VISIBLE, Packing
from sweeps.running.resources import Resources
from sweeps.running.warm_up import MODULES, WarmUp

SPEC = TrialSpec(target_sparsity_pct=50)
ON_GPU = {"threads": 2, "device": "cuda", "deterministic": True, "step": "captured", "data_root": Path("/data")}
PLUGGED = TrialSpec(model="tests.plugins:tiny_cnn")
ORDER = WarmUp(spec=SPEC.canonical(), execution={"data_root": "/data", "threads": 3}, environment={"WARMED": "yes"})


class Trained:
    """In place of training: whether it has begun, and may end."""

    def __init__(self) -> None:
        self.asked: list[tuple[TrialSpec, Execution]] = []
        self.begun, self.may_end, self.has_ended = threading.Event(), threading.Event(), False

    def __call__(self, spec: TrialSpec, execution: Execution) -> None:
        self.asked.append((spec, execution))
        self.begun.set()
        assert self.may_end.wait(60)
        self.has_ended = True


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once Ray knows this worker."""
    known = threading.Event()
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(is_initialized=known.is_set))
    return known


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trained]:
    found = Trained()
    monkeypatch.setattr(lth_trainable.training.warm_up, "warm_up", found)
    monkeypatch.setattr(warm_up, "PATIENCE", 0.0)
    monkeypatch.setattr(warm_up, "_warming", None)
    monkeypatch.setenv("WARMED", "no")
    yield found
    found.may_end.set()


def test_a_trial_waits_until_it_is_over(ray: threading.Event, trained: Trained) -> None:
    ray.set()
    warm_up.begin(ORDER.as_json())
    assert trained.begun.wait(60)
    threading.Timer(0.2, trained.may_end.set).start()
    warm_up.give_way()
    assert trained.has_ended
    ((spec, execution),) = trained.asked
    assert (spec, execution) == (SPEC, Execution(threads=3, data_root=Path("/data")))
    assert warm_up.os.environ["WARMED"] == "yes"
    warm_up.give_way()


def test_a_trial_that_comes_first_does_without(ray: threading.Event, trained: Trained) -> None:
    warm_up.begin(ORDER.as_json())
    warm_up.give_way()
    ray.set()
    assert warm_up._warming is not None
    warm_up._warming.join(60)
    assert not warm_up._warming.is_alive() and not trained.asked


def test_a_trial_that_comes_while_others_begin_does_without(
    ray: threading.Event, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray knows the worker, whose patience is not at its end yet."""
    patient, over = threading.Event(), threading.Event()
    monkeypatch.setattr(warm_up, "PATIENCE", -1.0)

    def sleep(seconds: float) -> None:
        if seconds < 0:
            patient.set()
            assert over.wait(60)

    monkeypatch.setattr(warm_up.time, "sleep", sleep)
    ray.set()
    warm_up.begin(ORDER.as_json())
    assert patient.wait(60)
    warm_up.give_way()
    over.set()
    assert warm_up._warming is not None
    warm_up._warming.join(60)
    assert not trained.asked


def test_a_trial_never_trains_beside_it(
    ray: threading.Event, trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that hangs ends its worker."""

    class Ended(Exception):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(warm_up, "LONGEST", 0.01)
    monkeypatch.setattr(warm_up.os, "_exit", end)
    ray.set()
    warm_up.begin(ORDER.as_json())
    assert trained.begun.wait(60)
    with pytest.raises(Ended):
        warm_up.give_way()
    assert "has not ended after 0.01 s" in capsys.readouterr().err


def test_a_process_that_has_no_order_does_not_wait(trained: Trained) -> None:
    warm_up.give_way()
    assert not trained.asked


def test_an_error_is_left_to_the_trial(
    ray: threading.Event, trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no kernel")

    monkeypatch.setattr(lth_trainable.training.warm_up, "warm_up", fail)
    ray.set()
    warm_up.begin(ORDER.as_json())
    assert warm_up._warming is not None
    warm_up._warming.join(60)
    warm_up.give_way()
    assert "warm-up: ValueError: no kernel" in capsys.readouterr().err


def test_what_is_trained_is_the_first_trial_on_the_gpu() -> None:
    packing = Packing(1, 8, environment={VISIBLE: "3"})
    order = warm_up_of([SPEC, PLUGGED], ON_GPU, packing)
    assert order is not None and order.environment == {VISIBLE: "3"} and spec_from_dict(order.spec) == SPEC
    assert Execution.of(order.execution) == Execution(**{**ON_GPU, "trials_on_gpu": 8})
    needs = needs_of([SPEC], None, order)
    assert needs.warm_up is order and needs.modules[-len(MODULES) :] == MODULES


@pytest.mark.parametrize(
    ("specs", "more", "packing"),
    [
        ([SPEC], {}, None), ([], {}, Packing(1, 8)), ([SPEC], {}, Packing(2, 8)), ([SPEC], {}, Packing(1, 1, most=8)),
        ([SPEC], {}, Packing(1, 1)),
        ([SPEC], {"replicas": 4}, Packing(1, 8)), ([SPEC], {"compile": True}, Packing(1, 8)),
        ([PLUGGED, SPEC], {}, Packing(1, 8)),
    ],
    ids=["no GPU", "no trial", "two GPUs", "measures", "one at a time", "stacks", "compiled", "own code"],
)  # fmt: skip
def test_who_trains_nothing(specs: list[TrialSpec], more: dict[str, Any], packing: Packing | None) -> None:
    assert warm_up_of(specs, {**ON_GPU, **more}, packing) is None


def test_settings_of_a_launch_are_enough() -> None:
    execution = {"data_root": None, **Resources(gpus=0.125).execution()}
    order = warm_up_of([SPEC], execution, Packing(1, 8))
    assert order is not None and Execution.of(order.execution).trials_on_gpu == 8


def test_a_fork_server_that_imports_it_does_not_import_ray() -> None:
    """It is read once, in each worker, which has another environment."""
    code = f"import importlib, sys; [importlib.import_module(n) for n in {MODULES!r}]; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
