"""For somebody who comes from fasterai: its names, its arguments, its fractions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fasterai.core.schedule as theirs
import pytest

import lth_trainable
from lth_trainable import SparsifyCallback, UserError, large_final
from tests.support.callback import callback, learner
from tests.support.command import ROOT

PAGE = ROOT / "docs" / "from_fasterai.md"
SETTINGS = ("weight", "local", large_final, lth_trainable.one_shot)


def test_every_ready_made_schedule_has_its_name() -> None:
    assert set(theirs.available_schedules()) <= set(lth_trainable.__all__)
    for name in theirs.available_schedules():
        ours, reference = getattr(lth_trainable, name), getattr(theirs, name)
        assert ours.start_pct == reference.start_pct
        assert ours.prunes(20, lth_trainable.pruning.schedules.exact(1) / 2)


@pytest.mark.parametrize("name", ["agp", "one_cycle", "cos", "lin", "dsd"])
def test_a_ready_made_schedule_has_the_curve_of_its_name(name: str) -> None:
    for pos in (0.0, 0.1, 0.3, 0.5, 0.8, 1.0):
        ours, reference = getattr(lth_trainable, name).function(0, 1, pos), getattr(theirs, name).sched_func(0, 1, pos)
        assert float(ours) == pytest.approx(float(reference), abs=1e-9)


def test_a_ready_made_schedule_prunes() -> None:
    learn, cb = learner(), callback(50, schedule=lth_trainable.agp)
    learn.fit(4, 1e-2, cbs=cb)
    assert learn.sparsity == pytest.approx(50, abs=0.2)


def test_its_arguments_are_accepted_where_they_ask_for_nothing() -> None:
    SparsifyCallback(50, *SETTINGS, save_tickets=False, model=None, round_to=None, nm=False)


@pytest.mark.parametrize(("given", "remedies"), [
    ({"save_tickets": True}, ["save_tickets=True", "save_ticket(callback.ticket()"]),
    ({"round_to": 8}, ["round_to=8", "granularity='filter'"]), ({"model": "body"}, ["model='body'", "layers="]),
    ({"nm": True, "round_to": 4}, ["nm=True, round_to=4", "for nm use", "for round_to use"]),
])  # fmt: skip
def test_its_arguments_are_refused_together_with_what_to_use(given: dict[str, Any], remedies: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        SparsifyCallback(50, *SETTINGS, **given)
    message = str(refused.value)
    assert all(text in message for text in remedies) and "\n" not in message and "docs/from_fasterai.md" in message


def test_other_arguments_are_a_mistake_in_the_code() -> None:
    with pytest.raises(TypeError, match="unexpected argument 'sparsness'"):
        SparsifyCallback(50, *SETTINGS, sparsness=3)


@pytest.mark.parametrize(("sparsity", "meant"), [(0.5, "50"), (0.004, "0.4"), ({"conv": 0.25}, "25"), (0.333, "33.3")])
def test_a_fraction_is_refused_with_the_percentage_that_is_meant(sparsity: Any, meant: str) -> None:
    with pytest.raises(UserError, match=f"the unit is percent: did you mean {re.escape(meant)}\\?"):
        SparsifyCallback(sparsity, *SETTINGS)
    with pytest.raises(UserError, match=f"the unit is percent: did you mean {re.escape(meant)}\\?"):
        learner().sparsify(sparsity)


@pytest.mark.parametrize("schedule", [theirs.agp, lth_trainable.Schedule, 3])
def test_what_is_no_schedule_is_refused(schedule: Any) -> None:
    with pytest.raises(UserError, match=r"schedule: found .*; expected a Schedule, such as .* or agp"):
        SparsifyCallback(50, "weight", "local", large_final, schedule)


def test_what_follows_reset_end_is_given_by_name() -> None:
    with pytest.raises(UserError, match=r"layer_type: found True; .*fasterai has save_tickets in its place"):
        SparsifyCallback(50, *SETTINGS, True, 0, False, True)  # type: ignore[arg-type]


def test_the_page_has_every_name_of_fasterai_and_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text()
    for name in (*theirs.available_schedules(), "save_tickets", "round_to", "nm", "layer_type", "rewind_epoch"):
        assert f"`{name}" in text, name
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile("\n".join(blocks), PAGE.name, "exec"), names)
    assert names["learn"].sparsity > 79
