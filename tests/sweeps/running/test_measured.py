"""`--trials-per-gpu auto`: how many trials share a GPU, from what the first one has used of it. No GPU is needed."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from lth_trainable.tune.progress import Reports
from sweeps.cli.arguments import SWEEP
from sweeps.cli.options import parse
from sweeps.lth_grid import main
from sweeps.planning.dispatch import Dispatcher
from sweeps.running.measured import Sample, choose
from sweeps.running.packing import Packing
from sweeps.running.resources import Budget, Resources, Spent
from sweeps.running.searcher import PlanSearcher
from tests.support.plans import dense, planned

GIB = 2**30


def sample(peak: float, busy: float | None = 0.5, total: int = 80, usable: float | None = None) -> Sample:
    return Sample(
        peak_bytes=int(peak * GIB), context_bytes=GIB // 2, total_bytes=total * GIB,
        usable_bytes=int((total if usable is None else usable) * GIB), busy=busy,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "most", "mps", "trials", "why"),
    [
        (sample(1), 8, True, 8, "the cores allow"),
        (sample(1), 48, True, 16, "the time of its kernels allows"),
        (sample(1, busy=1.0), 48, True, 8, "the time of its kernels allows"),
        (sample(1, busy=1.0), 48, False, 3, "the time of its kernels allows"),
        (sample(1, busy=None), 48, True, 8, "the time of its kernels allows"),
        (sample(0.5, busy=0.0), 48, True, 48, "the cores allow"),
        (sample(15), 8, True, 4, "its memory allows"),
        (sample(15, usable=40), 8, True, 2, "its memory allows"),
        (sample(79), 8, True, 1, "its memory allows"),
        (sample(1.5, total=16), 16, True, 6, "its memory allows"),
    ],
    ids=str.split("cores kernels busy turns unknown idle memory others full small"),
)
def test_memory_cores_and_time_bound_the_number(found: Sample, most: int, mps: bool, trials: int, why: str) -> None:
    chosen = choose(found, most, mps)
    assert chosen.trials == trials and why in chosen.why, chosen


def test_a_measured_share_has_room_for_what_was_measured() -> None:
    from lth_trainable.training.gpu_memory import fraction_of

    for tenths in range(1, 400):
        found = sample(tenths / 10)
        n = choose(found, 48, True).trials
        assert n == 1 or fraction_of(n, found.total_bytes) * found.total_bytes >= found.peak_bytes


def report(seconds: float, **more: Any) -> dict[str, Any]:
    seen = {name: getattr(sample(1), name) for name in Sample.__dataclass_fields__}
    return {"gpu": json.dumps({**seen, "seconds": seconds}), "epochs_done": 2, **more}


def searcher_of(packing: Packing) -> PlanSearcher:
    dispatcher = Dispatcher(planned(dense(seeds=30)), (), (), packing.slots)
    return PlanSearcher(
        dispatcher, Spent(), Budget(), lambda trial: {"place": packing.place(trial.name)}, lambda *_: False,
        packing=packing,
    )  # fmt: skip


@pytest.mark.parametrize("is_short", [False, True], ids=["while_it_trains", "after_a_short_trial"])
def test_one_trial_a_gpu_runs_until_it_has_been_measured(is_short: bool, capsys: pytest.CaptureFixture[str]) -> None:
    packing = Packing(gpus=2, on_each=1, environment={}, most=4)
    searcher = searcher_of(packing)
    first: Any = [searcher.suggest("a"), searcher.suggest("b")]
    assert [(config["place"].gpu, config["place"].measures) for config in first] == [(0, True), (1, True)]
    assert searcher.suggest("c") is None
    searcher.on_trial_result("a", report(0.5))
    assert searcher.suggest("c") is None, "half a second is too short"
    if is_short:
        searcher.on_trial_complete("a", report(0.5, status="done"))
    else:
        searcher.on_trial_result("a", report(2.5))
    said = capsys.readouterr().err
    assert said.startswith(
        "--trials-per-gpu auto: from here on --trials-per-gpu 4, because a trial takes 1.5 of 80.0 GiB"
    )
    assert len(said.splitlines()) == 1
    running = len(searcher.trials)
    more: Any = [searcher.suggest(f"m{number}") for number in range(8 - running)]
    assert all((config["place"].sharing, config["place"].measures) == (4, False) for config in more)
    assert searcher.suggest("n") is None and [p.gpu for p in packing._places.values()].count(0) == 4
    searcher.on_trial_result("b", report(9))
    assert packing.on_each == 4 and not capsys.readouterr().err, "the first decides"


def test_as_many_as_there_are_cores_are_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    for cpus, at_once, most in ((1, None, 8), (4, None, 2), (1, 4, 2), (16, None, 1), (1, 1, 1)):
        packing = Packing.of(Resources.asked(cpus, 0, "auto", at_once))
        assert packing is not None and (packing.on_each, packing.most) == (1, most)
        assert packing.for_ray() == {"lottery_gpu_0": most, "lottery_gpu_1": most, "lottery_listing": 1}


def test_no_more_than_asked_for_run_at_once_on_all_gpus_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    for at_once, most in ((1, 1), (3, 2), (5, 3)):
        packing = Packing.of(Resources.asked(1, 0, "auto", at_once))
        assert packing is not None and packing.most == most and packing.is_measuring == (most > 1)
        packing.on_each = most
        assert packing.slots == at_once


def test_auto_is_for_this_machine(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["digits", "--trials-per-gpu", "auto", "--on", "8 x H100", "--storage", str(tmp_path)]) == 2
    assert "trials-per-gpu: found 'auto'; expected a number" in capsys.readouterr().err


def test_the_flag_is_a_number_or_a_word_from_python_too() -> None:
    assert parse(["digits", "--trials-per-gpu", "auto"])[0].resources.sharing == "measured"
    assert SWEEP.checked("trials_per_gpu", 8) == 8 and SWEEP.checked("trials_per_gpu", "auto") == "auto"
    for wrong in ("8", 0.5, "many", True):
        with pytest.raises(Exception, match="trials_per_gpu"):
            SWEEP.checked("trials_per_gpu", wrong)


def test_only_a_trial_that_is_to_measure_does_so_and_its_measurement_ends_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []

    class Fake:
        is_open = True

        def __init__(self) -> None:
            made.append(self)

        def now(self) -> dict[str, int]:
            return {"peak_bytes": 7}

        def close(self) -> None:
            self.is_open = False

    monkeypatch.setattr("lth_trainable.training.gauge.Gauge", Fake)
    plain, measuring = Reports("end", False), Reports("end", False, is_measuring=True)
    for progress in (plain, measuring):
        is_wanted = progress.measurement.is_wanted
        with progress.measurement.until_the_end():
            progress.epoch([])
            news = progress.news()
            assert ("gpu" in news) is is_wanted and len(made) == int(is_wanted)
    assert not made[0].is_open and "gpu" not in measuring.news()
