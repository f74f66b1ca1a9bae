"""Whatever is shared, the bytes are those of the trial trained alone, and everything is trained once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.run import Keep, run_trial
from tests.support.grids import ADAM, CNN, GRIDS
from tests.support.runs import plan_of


@functools.cache
def alone(spec: TrialSpec, folder: Path) -> dict[str, Any]:
    return run_trial(spec, Store(folder / spec.name))


def in_one_store(specs: Sequence[TrialSpec], store: Store) -> dict[str, dict[str, Any]]:
    plan = plan_of(specs)
    return {
        trial.name: run_trial(
            trial.spec, store, keep=Keep(states=plan.keep(trial), mid_epoch_points=plan.rewind_steps(trial))
        )
        for trial in plan.trials
    }  # fmt: skip


# What these share is shared in other grids too: sgd in "steps with a ramp", one_cycle in "one_cycle, sgd".
OF_THE_SAME_KINDS = ("sgd", "one_cycle, adam")


@pytest.mark.parametrize(
    "grid", [pytest.param(grid, marks=pytest.mark.slow if grid in OF_THE_SAME_KINDS else ()) for grid in GRIDS]
)
def test_shared_or_alone_the_bytes_are_equal_and_everything_is_trained_once(grid: str, tmp_path: Path) -> None:
    specs = list(dict.fromkeys(TrialSpec(**fields) for fields in GRIDS[grid]))
    hashes = {spec.name: alone(spec, tmp_path)["sha256"] for spec in specs}
    assert len({h["weights"] for h in hashes.values()}) > len(specs) / 2, "trials differ, or the test says nothing"
    plan = plan_of(specs)
    assert plan.epochs_distinct < plan.epochs_requested
    for number, order in enumerate((specs, specs[::-1])):
        shared = in_one_store(order, Store(tmp_path / f"shared{number}"))
        assert {name: record["sha256"] for name, record in shared.items()} == hashes
        assert sum(record["epochs_trained"] for record in shared.values()) == plan.epochs_distinct


def test_a_plug_in_that_is_edited_meanwhile_has_nothing_trained_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial's process goes on with what it has imported, and so do the keys of what it trains."""
    file = tmp_path / "plug_in_of_sharing.py"
    file.write_text("from tests.plugins import tiny_cnn\n")
    monkeypatch.syspath_prepend(tmp_path)
    base = {**ADAM, "model": "plug_in_of_sharing:tiny_cnn", "epochs": 1}
    specs = [TrialSpec(**{**base, "target_sparsity_pct": s}) for s in (40, 64)]
    plan, epochs = plan_of(specs), 0
    for trial in plan.trials:
        epochs += run_trial(trial.spec, store, keep=Keep(states=plan.keep(trial)))["epochs_trained"]
        file.write_text("from tests.plugins import tiny_cnn  # edited\n")
    assert epochs == plan.epochs_distinct == 3


def test_every_field_of_the_rows_is_what_the_trial_would_have_written_alone(store: Store, tmp_path: Path) -> None:
    specs = [TrialSpec(**{**ADAM, "target_sparsity_pct": s, "rewind_epoch": 1}) for s in (64, 40)]
    for name, record in in_one_store(specs, store).items():
        spec = next(spec for spec in specs if spec.name == name)
        mine = alone(spec, tmp_path)
        for ours, theirs in zip(record["epochs"], mine["epochs"], strict=True):
            assert {k: v for k, v in ours.items() if k not in ("seconds", "trained_by")} == {
                k: v for k, v in theirs.items() if k not in ("seconds", "trained_by")
            }
        for part in ("result", "layers", "shapes", "states", "key", "spec", "data"):
            assert record[part] == mine[part], part
    last = TrialSpec(**{**ADAM, "target_sparsity_pct": 40, "rewind_epoch": 1})
    assert {row["trained_by"] for row in run_trial(last, store)["epochs"]} == {specs[0].name}


def test_a_trial_that_passes_by_stores_the_rewind_point_within_an_epoch(store: Store) -> None:
    """Without the mark the ticket would have to train two epochs of the dense network again."""
    dense, ticket = (
        TrialSpec(**{**ADAM, "control": "dense"}),
        TrialSpec(**{**ADAM, "target_sparsity_pct": 40, "rewind_epoch": "7it"}),
    )
    plan = plan_of([dense, ticket])
    trial = next(t for t in plan.trials if t.spec is dense)
    assert list(plan.rewind_steps(trial)) == [7]
    run_trial(dense, store, keep=Keep(states=plan.keep(trial), mid_epoch_points=plan.rewind_steps(trial)))
    record = run_trial(ticket, store)
    assert record["epochs_trained"] == 2  # one and three fifths, the first of them begun at its third batch
    assert [(row["level"], row["epoch"]) for row in record["epochs"]] == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)]
    without = Store(f"{store.root}-without")
    run_trial(dense, without, keep=Keep(states=plan.keep(trial)))
    again = run_trial(ticket, without)
    assert again["sha256"] == record["sha256"] and again["epochs_trained"] == 2 + 1


def test_marks_are_of_the_dense_network_only(store: Store) -> None:
    """Levels come by the same numbers again: here the dense network is stored, and its mark is not."""
    dense, spec, other = (
        TrialSpec(**{**ADAM, "target_sparsity_pct": 40, **fields})
        for fields in ({"control": "dense"}, {"rewind_epoch": 0}, {"rewind_epoch": "7it"})
    )
    plan = plan_of([dense, spec, other])
    keeps = {t.spec: Keep(states=plan.keep(t), mid_epoch_points=plan.rewind_steps(t)) for t in plan.trials}
    run_trial(dense, store, keep=Keep(states=keeps[dense].states))
    assert list(keeps[spec].mid_epoch_points) == [7]
    assert run_trial(spec, store, keep=keeps[spec])["epochs_trained"] == 3
    mine = run_trial(other, store, keep=keeps[other])
    assert mine["sha256"] == run_trial(other, Store(f"{store.root}-alone"))["sha256"]


def test_an_iteration_beyond_the_fit_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="less than 15it"):
        run_trial(TrialSpec(**{**CNN, "rewind_epoch": "15it", "target_sparsity_pct": 40}), store)
