"""How long steps of stacks take: measured, with an end where more gain nothing, find no memory or have no time."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stacking.run import NotStackable
from lth_trainable.stacking.times import Time
from lth_trainable.training import stack_times
from lth_trainable.training.execution import Execution, driver_version, fingerprint
from lth_trainable.training.stack_times import answer, measure

SPEC = TrialSpec(control="dense", batch_size=230)
REQUEST = {
    "spec": SPEC.canonical(), "execution": {}, "data_root": None, "numbers": [1], "seconds": 1, "known": [],
}  # fmt: skip


def of(times: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stacks of k networks take so many seconds a step; of other numbers there is no memory."""

    def time(trial: Any, k: int) -> Time:
        if k not in times:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Time(k=k, step_s=times[k], validation_s=1.0)

    monkeypatch.setattr(stack_times, "_time", time)


@pytest.mark.parametrize(
    ("times", "numbers", "ended"),
    [
        ({1: 1.0, 2: 1.1, 4: 1.2}, [1, 2, 4], ""),
        ({1: 1.0, 2: 1.1, 4: 2.15, 8: 2.2}, [1, 2, 4], "4 are no faster than 2, network by network"),
        ({1: 1.0, 2: 1.1}, [1, 2], "the memory is too small for 4"),
    ],
)
def test_it_ends_where_more_gain_nothing_or_have_no_room(
    times: dict[int, float], numbers: list[int], ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of(times, monkeypatch)
    found: list[Time] = []
    asked = [4, 1, 2] if 8 not in times else [1, 2, 4, 8]
    assert measure(SPEC, Execution(), asked, 60.0, found.append) == ended
    assert [time.k for time in found] == numbers


def test_it_ends_when_the_time_is_over_but_not_before_there_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    of({1: 1.0, 2: 1.1}, monkeypatch)
    found: list[Time] = []
    assert measure(SPEC, Execution(), [1, 2], -1.0, found.append) == "the time was over"
    assert [time.k for time in found] == [1]


def test_without_room_for_one_network_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    of({}, monkeypatch)
    said: list[Any] = []
    answer(REQUEST, said.append)
    assert "found no memory left" in said[1]["error"] and len(said) == 2


def test_where_it_is_known_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    of({}, monkeypatch)
    said: list[Any] = []
    answer({**REQUEST, "numbers": []}, said.append)
    place = said[0]["place"]
    assert place == {**fingerprint(Execution()), "driver": driver_version()}
    answer({**REQUEST, "known": [{"device": "another"}, json.loads(json.dumps(place))]}, said.append)
    assert said == [{"place": place}, {"ended": ""}] * 2


def test_images_that_loaders_make_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_times, "load_dataset", lambda *_: object())
    with pytest.raises(NotStackable, match="one by one"):
        measure(SPEC, Execution(), [1], 1.0, lambda _: None)


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU"))]
)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    "fields", [{}, {"augment": "flip_shift", "model": "tests.plugins:tiny_cnn"}], ids=["linear", "images"]
)
def test_real_stacks_are_measured_and_leave_torch_as_it_was(device: str, fields: dict[str, Any]) -> None:
    found: list[Time] = []
    spec = TrialSpec(control="dense", **{"batch_size": 230, **fields})
    threads = torch.get_num_threads()
    measure(spec, Execution(device=device), [1, 2, 3], 60.0, found.append)
    assert [time.k for time in found][:2] == [1, 2] and all(time.step_s > 0 < time.validation_s for time in found)
    assert torch.get_num_threads() == threads
