"""How many trials share a GPU, which trial is on which, and what Ray is asked for. No GPU is needed."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from lth_trainable.errors import UserError
from sweeps.cli.options import parse
from sweeps.lth_grid import main
from sweeps.running.gpus import resources_of
from sweeps.running.packing import LISTING, Packing, unit
from sweeps.running.resources import RAY_PARTS, Resources


@pytest.mark.parametrize("n", range(1, 49))
def test_as_many_trials_as_asked_for_fit_on_a_gpu_and_ray_agrees(n: int) -> None:
    for resources in (Resources.asked(1, 0, n, None), Resources(gpus=1 / n)):
        assert resources.on_a_gpu == n
        units = round(resources.ray_gpus * RAY_PARTS)
        assert units == pytest.approx(resources.ray_gpus * RAY_PARTS) and n * units <= RAY_PARTS < (n + 1) * units


@pytest.mark.parametrize(
    ("cores", "gpus", "per_gpu", "cpus", "slots", "each"),
    [(16, 1, 8, 1, 8, 1), (16, 2, 8, 1, 16, 1), (4, 1, 8, 1, 8, 0.5), (16, 1, 8, 4, 4, 4), (3, 1, 7, 1, 7, 0.4285)],
)
def test_many_trials_on_a_gpu_share_few_cores_unless_each_has_several(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int, per_gpu: int, cpus: int, slots: int, each: float
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    resources = Resources.asked(cpus, 0, per_gpu, None)
    assert (resources.slots(), resources.ray_cpus()) == (slots, each)
    assert resources.execution()["threads"] == cpus, "threads are in the fingerprint: they do not follow the machine"


def test_a_fraction_of_a_gpu_asks_for_whole_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert Resources(gpus=0.125).ray_cpus() == 1 and Resources(gpus=0.125).slots() == 4


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--trials-per-gpu", "4", "--gpus-per-trial", "0.25"], "one of --trials-per-gpu and --gpus-per-trial"),
        (["--trials-per-gpu", "0"], "trials-per-gpu: found 0; expected 1 to 48"),
        (["--trials-per-gpu", "49"], "expected 1 to 48"),
        (["--gpus-per-trial", "0.00001"], "0, a fraction of a GPU"),
    ],
)  # fmt: skip
def test_flags_that_no_machine_can_follow(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--storage", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


def test_a_machine_without_a_gpu_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert main(["--trials-per-gpu", "4", "--storage", str(tmp_path)]) == 2
    assert "trials-per-gpu: found 4; expected no such flag" in capsys.readouterr().err


def test_the_flag_is_the_part_of_a_gpu() -> None:
    options, _ = parse(["digits", "--trials-per-gpu", "4"])
    assert options.resources == Resources(gpus=0.25, sharing="number")


def test_trials_go_to_the_gpu_with_the_fewest() -> None:
    packing = Packing(gpus=3, on_each=4, environment={})
    first = [packing.place(f"t{number}").gpu for number in range(5)]
    assert first == [0, 1, 2, 0, 1]
    packing.leave("t1")
    packing.leave("t4")
    packing.leave("unknown")
    assert [packing.place(name).gpu for name in "abc"] == [1, 1, 2]


def test_no_gpu_gets_more_trials_than_places_however_they_end() -> None:
    packing = Packing(gpus=2, on_each=3, environment={})
    running: list[tuple[str, int]] = []
    for number, order in zip(range(200), itertools.cycle([0, 2, 1, -1]), strict=False):
        if len(running) == 6:
            packing.leave(running.pop(order)[0])
        running.append((f"t{number}", packing.place(f"t{number}").gpu))
        on = [gpu for _, gpu in running]
        assert max(on.count(gpu) for gpu in (0, 1)) <= 3
    assert packing.for_ray() == {unit(0): 3, unit(1): 3, LISTING: 1}


@pytest.mark.parametrize(
    ("listed", "plain", "by_position"),
    [(None, ["0", "1"], ["0", "1"]), ("2,3", ["2", "3"], ["0", "1"]), ("3, 1", ["3", "1"], ["0", "1"]),
     ("GPU-aa,GPU-bb", ["GPU-aa", "GPU-bb"], ["GPU-aa", "GPU-bb"]), ("", ["0", "1"], ["0", "1"])],
)  # fmt: skip
def test_gpus_that_the_user_has_chosen_stay_chosen(
    listed: str | None, plain: list[str], by_position: list[str]
) -> None:
    """An MPS daemon that has CUDA_VISIBLE_DEVICES numbers these from 0 for its clients."""
    packing = Packing(gpus=2, on_each=1, environment={} if listed is None else {"CUDA_VISIBLE_DEVICES": listed})
    assert packing.visible == plain
    packing.number_by_position()
    assert packing.visible == by_position
    place = packing.place("a")
    assert resources_of(place.as_json(), Resources(gpus=1)) == {"CPU": 1, "lottery_gpu_0": 1}


def test_a_trial_without_a_gpu_asks_for_cores_only() -> None:
    assert resources_of(None, Resources(cpus=2)) == {"CPU": 2}


def test_a_recorded_trial_takes_no_core_from_those_on_gpus_and_workers_wait_beside_it() -> None:
    assert resources_of(None, Resources(cpus=2, gpus=0.25)) == {LISTING: 1}
    packing = Packing(2, 4)
    assert packing.may_wait({"CPU": 1, unit(1): 1}) == 4 and packing.may_wait({LISTING: 1}) == 1
    packing.lower("a", 4)
    assert packing.may_wait({"CPU": 1, unit(1): 1}) == 2


def test_both_flags_raise_before_anything_is_written(tmp_path: Path) -> None:
    options, _ = parse(["digits", "--trials-per-gpu", "2", "--gpus-per-trial", "1"])
    with pytest.raises(UserError, match="both say how many trials share a GPU"):
        _ = options.resources
