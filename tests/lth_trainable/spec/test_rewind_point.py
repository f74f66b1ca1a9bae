"""A rewind point is an epoch or an iteration."""

from __future__ import annotations

import pytest

from lth_trainable.errors import UserError
from lth_trainable.spec.rewind_point import RewindPoint
from lth_trainable.spec.trial_spec import TrialSpec


@pytest.mark.parametrize(
    ("text", "in_words", "updates", "epoch"),
    [
        ("0", "epoch 0", 0, 0), ("3", "epoch 3", 21, 3), ("500it", "iteration 500", 500, 71),
        ("7it", "iteration 7", 7, 1), ("6it", "iteration 6", 6, 0),
    ],
)  # fmt: skip
def test_a_point_in_text_in_words_and_on_the_clock(text: str, in_words: str, updates: int, epoch: int) -> None:
    point = RewindPoint.parse(text)
    assert (str(point), point.in_words) == (text, in_words)
    assert (point.updates_before(7), point.epoch_at(7)) == (updates, epoch)


def test_iteration_0_is_epoch_0() -> None:
    assert RewindPoint.parse("0it") == RewindPoint(epoch=0)


@pytest.mark.parametrize("text", ["", "it", "-1", "1.5", "x", "5its"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="500it"):
        RewindPoint.parse(text)


def test_the_point_of_a_spec() -> None:
    assert TrialSpec(rewind_epoch="500it").rewind_point == RewindPoint(iteration=500)  # type: ignore[arg-type]
    assert TrialSpec(rewind_epoch=1).rewind_point == RewindPoint(epoch=1)
    assert TrialSpec(control="dense").rewind_point is None
