"""Axes of a search: what a person writes, what Optuna draws, which fields act together."""

from __future__ import annotations

import optuna
import pytest

from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.search.axes import DIGITS, Axis, Choice, Range, acts, check_axes, draw_point, parse_axis


@pytest.mark.parametrize(
    ("field", "words", "axis"),
    [
        ("target_sparsity_pct", ["50..97"], Range(low=50.0, high=97.0)),
        ("lr", ["3e-4..3e-3:log"], Range(low=3e-4, high=3e-3, log=True)),
        ("prune_rate_pct", ["20..60:20"], Range(low=20.0, high=60.0, step=20.0)),
        ("epochs", ["5..20"], Range(low=5, high=20)),
        ("rewind_epoch", ["0..4:2"], Range(low=0, high=4, step=2)),
        ("rewind_epoch", ["0", "500it"], Choice(values=(0, "500it"))),
        ("schedule", ["imp", "omp"], Choice(values=("imp", "omp"))),
        ("reset_end", ["True", "False"], Choice(values=(True, False))),
        ("lr", ["1e-3", "1e-3"], Choice(values=(1e-3,))),
    ],
)
def test_words_make_an_axis(field: str, words: list[str], axis: Axis) -> None:
    assert parse_axis(field, "--flag", words) == axis


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("lr", ["abc"]), ("lr", ["2..1"]), ("lr", ["1..1"]), ("lr", ["0..1:log"]), ("lr", ["1..2", "3"]),
        ("lr", ["1..2:5"]), ("lr", ["1..2:-1"]), ("lr", ["nan..2"]), ("epochs", ["1.5..2"]), ("schedule", ["imp..omp"]),
        ("reset_end", ["yes"]), ("rewind_epoch", ["10it..500it"]), ("lr", ["1..2:log:3"]), ("lr", ["1...2"]),
    ],
)  # fmt: skip
def test_what_is_no_axis_is_refused(field: str, words: list[str]) -> None:
    with pytest.raises(UserError, match="--flag"):
        parse_axis(field, "--flag", words)


def test_a_field_is_drawn_only_where_it_acts() -> None:
    axes = {
        "prune_rate_pct": Choice(values=(20.0, 40.0)), "start_pct": Range(low=0.1, high=0.5),
        "warmup_pct": Range(low=0.1, high=0.2), "target_sparsity_pct": Range(low=50.0, high=90.0),
        "schedule": Choice(values=("imp", "omp", "agp")), "lr_policy": Choice(values=("constant", "warmup")),
    }  # fmt: skip
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(60):
        point = draw_point(study.ask(), {"epochs": 8}, axes)
        assert ("prune_rate_pct" in point) == (point["schedule"] == "imp")
        assert ("start_pct" in point) == (point["schedule"] == "agp")
        assert ("warmup_pct" in point) == (point["lr_policy"] == "warmup")
        spec = TrialSpec(epochs=8, **point)
        assert all(getattr(spec, name) is not None for name in point)
        seen.add((point["schedule"], point["lr_policy"]))
    assert len(seen) == 6


@pytest.mark.parametrize("axis", [Range(low=1e-3, high=1.23456e-3), Range(low=1.0, high=100.0, log=True)])
def test_drawn_numbers_are_short_and_within_the_range(axis: Range) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(200):
        value = axis.draw(study.ask(), "x")
        assert axis.low <= value <= axis.high
        assert value in (axis.low, axis.high) or float(f"{value:.{DIGITS}g}") == value


@pytest.mark.parametrize(
    ("axes", "match"),
    [
        ({"rewind_epoch": Range(low=0, high=30)}, "rewind_epoch"),
        ({"target_sparsity_pct": Range(low=0.5, high=0.9)}, "did you mean 50"),
        ({"criterion": Choice(values=("large_final", "bar"))}, "bar"),
        (
            {"prune_rate_pct": Choice(values=(20.0, 40.0)), "schedule": Choice(values=("omp", "agp"))},
            "has an effect in some",
        ),
    ],
)
def test_values_that_no_trial_can_have_are_refused_before_anything_runs(axes: dict[str, Axis], match: str) -> None:
    with pytest.raises(UserError, match=match):
        check_axes({}, axes)


def test_a_value_is_fine_that_goes_with_one_schedule_only() -> None:
    axes: dict[str, Axis] = {"schedule": Choice(values=("imp", "iterative")), "rewind_epoch": Range(low=0, high=15)}
    check_axes({}, axes)  # iterative prunes after epoch 4, imp after 20
    assert acts("rewind_epoch", axes["rewind_epoch"], {"schedule": "imp"})
    assert not acts("rewind_epoch", axes["rewind_epoch"], {"schedule": "agp"})
