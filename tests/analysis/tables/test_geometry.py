"""Overlaps and signs of tickets that were trained for real, against masks and weights as anyone can load them."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
import analysis.tables.overlaps
import analysis.tables.signs
from analysis.export.archive import pack
from analysis.stats.overlap import overlap, sign_agreement
from analysis.tables import geometry
from analysis.tables.exclusions import change_exclusions
from analysis.tables.overlaps import MEMBERS, find_families
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import MASKS, Store, to_json
from lth_trainable.store.trials import load_masks, load_trial
from lth_trainable.training.run import run_trial
from tests.support.records import dense, ladder, plan, trial_rows

FIELDS = {"epochs": 2, "prune_rate_pct": 64.0, "target_sparsity_pct": 64.0}
TICKETS = [
    *(TrialSpec(seed=seed, rewind_epoch=k, **FIELDS) for seed in (0, 1) for k in (0, 1)),
    TrialSpec(seed=0, criterion="random", rewind_epoch=1, **FIELDS),
]
DENSE = TrialSpec(control="dense", epochs=2)
pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tickets of two seeds, two rewind epochs, and a criterion more, with a dense trial; gathered."""
    storage = tmp_path_factory.mktemp("geometry")
    for spec in (*TICKETS, DENSE):
        run_trial(spec, Store(storage), "run")
    trials = [{"name": spec.name, "key": None, "spec": spec.canonical()} for spec in (*TICKETS, DENSE)]
    Store(storage).write("run/plan.json", to_json(plan(TICKETS, trials=trials)))
    analysis.gather(storage / "run")
    return storage / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to change, gathered already."""
    shutil.copytree(trained.parent, tmp_path / "runs")
    return tmp_path / "runs" / "run"


def final_masks(run: Path, trial: str) -> dict[str, Any]:
    store = Store(run.parent)
    folder = store.find(f"run/trials/{trial}")
    assert folder is not None
    levels = load_masks(store, folder)
    return levels[max(levels)]


def weights(run: Path, trial: str, which: str) -> dict[str, Any]:
    state = load_trial(run / "trials" / trial, which).state_dict()
    return {name: tensor.numpy() for name, tensor in state.items() if name.endswith("weight")}


# -- overlaps ----------------------------------------------------------------------------------------------------------


def test_pairs_differ_in_one_thing(trained: Path) -> None:
    found = analysis.load(trained).overlaps
    pairs = found[found.layer.isna()][["between", "trial_a", "trial_b"]].to_numpy().tolist()
    a0, a1, b0, b1, random = (spec.name for spec in TICKETS)
    assert pairs == [
        ["seed", a0, b0], ["seed", a1, b1], ["rewind", a0, a1], ["rewind", b0, b1], ["criterion", a1, random],
    ]  # fmt: skip


def test_overlaps_are_those_of_the_masks(trained: Path) -> None:
    found = analysis.load(trained).overlaps
    for (a, b), rows in found.groupby(["trial_a", "trial_b"]):
        expected = overlap(final_masks(trained, a), final_masks(trained, b))
        assert rows.layer.fillna("all").tolist() == ["all", "1.weight", "3.weight", "5.weight"]
        for row in analysis.as_rows(rows):
            part = expected.layers[row["layer"]] if row["layer"] else expected.overall
            assert (row["n_weights"], row["n_kept_a"], row["n_kept_b"], row["n_both"]) == (
                part.n, part.kept_a, part.kept_b, part.both,
            )  # fmt: skip
            assert (row["iou"], row["chance_iou"], row["z"], row["nested"]) == (
                part.iou, part.chance_iou, part.z, part.nested,
            )  # fmt: skip


def test_what_shares_its_dense_training_is_nested_and_gets_no_z(trained: Path) -> None:
    """One prune after the same dense training: rewinding comes later, so the masks are equal by construction."""
    found = analysis.load(trained).overlaps
    rewind, others = found[found.between == "rewind"], found[found.between != "rewind"]
    assert rewind.nested.all() and rewind.z.isna().all() and (rewind.iou == 1).all()
    assert not others.nested.any() and others[others.layer.isna()].z.notna().all()


def test_families_are_of_finished_tickets_and_not_too_large() -> None:
    specs = [*dense(2), *ladder(64, 87.04, seeds=12), TrialSpec(target_sparsity_pct=64, rewind_epoch="500it")]
    rows = trial_rows(specs, lambda _: 0.9)
    rows[5]["status"] = "excluded"
    found = find_families(rows)
    assert [(f.between, len(f.trials), len(list(f.pairs))) for f in found] == [
        ("seed", MEMBERS, 45), ("seed", MEMBERS, 45), ("rewind", 2, 1),
    ]  # fmt: skip
    assert rows[5]["trial"] not in set(itertools.chain.from_iterable(f.trials for f in found))
    assert found[2].trials == (specs[2].name, specs[-1].name)


# -- signs -------------------------------------------------------------------------------------------------------------


def test_signs_are_those_of_the_weights(trained: Path) -> None:
    found = analysis.load(trained).signs
    for spec in (*TICKETS, DENSE):
        rows = found[found.trial == spec.name]
        times = ["initial-final"] if spec.is_dense else ["initial-final", "rewind-final"]
        assert rows.between.unique().tolist() == [*(["initial-rewind"] if spec.rewind_epoch else []), *times]
        mask = None if spec.is_dense else final_masks(trained, spec.name)
        for between, part in rows.groupby("between"):
            a, b = (weights(trained, spec.name, which) for which in str(between).split("-"))
            kept = mask or {name: np.ones(w.shape, bool) for name, w in a.items()}
            expected = sign_agreement(a, b, kept)
            assert part.layer.fillna("all").tolist() == ["all", "1.weight", "3.weight", "5.weight"]
            for row in analysis.as_rows(part):
                one = expected.layers[row["layer"]] if row["layer"] else expected.overall
                counts = (one.agree, one.disagree, one.zero)
                assert (row["n_agree"], row["n_disagree"], row["n_zero"]) == counts
                assert (row["n_kept"], row["agreement"]) == (sum(counts), one.fraction)


def test_training_turns_some_signs(trained: Path) -> None:
    found = analysis.load(trained).signs
    overall = found[found.layer.isna() & (found.between == "initial-final")].set_index("trial").agreement
    assert 0.6 < overall[DENSE.name] < 1
    assert overall[TICKETS[-1].name] < overall[TICKETS[1].name], "large weights keep their signs, others may not"


# -- what is made when -------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Trials whose masks are read."""
    names: list[str] = []
    real = analysis.tables.overlaps.final_masks

    def spy(store: Store, run: str, trial: str) -> Mapping[str, Any] | None:
        names.append(trial)
        return real(store, run, trial)

    monkeypatch.setattr(analysis.tables.overlaps, "final_masks", spy)
    monkeypatch.setattr(analysis.tables.signs, "final_masks", spy)
    return names


def test_what_is_known_of_the_same_masks_and_weights_is_not_read_again(run: Path, reads: list[str]) -> None:
    before = {name: (run / "analysis" / f"{name}.parquet").read_bytes() for name in ("overlaps", "signs")}
    analysis.gather(run)
    assert reads == []
    extra = TrialSpec(seed=2, rewind_epoch=1, **FIELDS)
    run_trial(extra, Store(run.parent), "run")
    frames = analysis.gather(run)
    assert set(reads) == {extra.name, TICKETS[1].name, TICKETS[3].name}
    assert reads.count(extra.name) == 2, "for overlaps and for signs"
    later = {name: (run / "analysis" / f"{name}.parquet").read_bytes() for name in before}
    assert all(later[name] != before[name] for name in before)
    assert extra.name in set(frames.overlaps.trial_b) & set(frames.signs.trial)
    shutil.rmtree(run / "analysis")
    analysis.gather(run)
    assert {name: (run / "analysis" / f"{name}.parquet").read_bytes() for name in before} == later


def test_masks_and_weights_that_are_gone_or_damaged_give_no_rows(run: Path) -> None:
    shutil.rmtree(run / "analysis")
    mask = run / "trials" / TICKETS[0].name / MASKS
    mask.write_bytes(mask.read_bytes()[:-1] + b"~")
    record = analysis.gather(run, "none").trials.set_index("trial").loc[DENSE.name]
    shutil.rmtree(run.parent / "states" / record.state_final)
    frames = analysis.gather(run, "all")
    assert TICKETS[0].name not in {*frames.overlaps.trial_a, *frames.overlaps.trial_b, *frames.signs.trial}
    assert DENSE.name not in set(frames.signs.trial)
    assert set(frames.signs.trial) == {spec.name for spec in TICKETS[1:]}
    assert set(frames.trials.status) == {"done"}


def test_what_was_asked_for_stays_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(analysis.gather(run, "none").overlaps) == 0
    assert len(analysis.gather(run).signs) == 0
    assert len(analysis.gather(run, "auto").overlaps) == 5 * 4
    monkeypatch.setattr(geometry, "AUTO_ROWS", 19)
    (run / "report.html").unlink()  # so that the results are made again
    frames = analysis.gather(run)
    assert (len(frames.overlaps), len(frames.signs)) == (0, 0)
    assert {name: round(work.rows) for name, work in geometry.left_out(frames).items()} == {"overlaps": 20, "signs": 72}
    assert len(analysis.gather(run, "all").overlaps) == 5 * 4
    assert len(analysis.gather(run).overlaps) == 5 * 4, "all, until it is taken back"
    assert geometry.left_out(analysis.load(run)) == {}


def test_little_is_what_takes_few_bytes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = analysis.as_rows(analysis.load(run).trials)
    states = {row[f"state_{which}"] for row in rows for which in ("initial", "rewind", "final")} - {None}
    work = geometry.work_of(rows, n_levels=5 * 2 + 1, n_layers=3 * 11)
    assert work["signs"].bytes == 4 * 50_200 * len(states)
    assert work["overlaps"].bytes == pytest.approx(5 * 50_200 / 8 * 11 / 6)
    monkeypatch.setattr(geometry, "AUTO_BYTES", work["overlaps"].bytes)
    frames = analysis.gather(run)
    assert (len(frames.overlaps), len(frames.signs)) == (20, 0)


def test_excluded_tickets_are_not_compared(run: Path) -> None:
    change_exclusions(run, exclude=[TICKETS[0].name], reason="a test")
    frames = analysis.gather(run)
    assert TICKETS[0].name not in {*frames.overlaps.trial_a, *frames.signs.trial}
    assert len(frames.overlaps) == 3 * 4


def test_a_pack_has_them_and_keeps_them(run: Path, tmp_path: Path) -> None:
    change_exclusions(run, exclude=[TICKETS[2].name], reason="a test")
    frames = analysis.gather(run)
    shutil.unpack_archive(pack(run, tmp_path / "run.tar.gz", ["none"]).path, tmp_path / "elsewhere", filter="data")
    again = analysis.gather(tmp_path / "elsewhere" / "run")
    for name in ("trials", "overlaps", "signs"):
        assert analysis.as_rows(getattr(again, name)) == analysis.as_rows(getattr(frames, name))
