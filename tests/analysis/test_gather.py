"""From a run's files to its tables: every reader, every status, nulls instead of zeros."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet

import analysis
from analysis.tables import schema
from analysis.tables.parquet import OPTIONAL
from lth_trainable.errors import UserError
from lth_trainable.spec.draft import MOST_SEED
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.values import digest
from lth_trainable.store.json_files import seal_json
from lth_trainable.store.store import MANIFEST, RECORD
from tests.support.records import dense, digits_like, drops, ladder, make_run, plan, record, seal, settle

ACCURACY = drops({None: 0.96, 64: 0.955, 87.04: 0.95, 92.22: 0.94})
TICKETS, DENSE = ladder(64, 87.04), dense()
WRITTEN = {name: table for name, table in schema.TABLES.items() if name not in OPTIONAL}


def by_name(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["trial"]: row for row in analysis.as_rows(frame)}


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reseal(path: Path, **changes: Any) -> None:
    """Change a manifest, and its own checksum with it."""
    content = {n: value for n, value in (json.loads(path.read_text()) | changes).items() if n != "sha256"}
    path.write_text(json.dumps(content | {"sha256": digest(content)}))


# -- the tables --------------------------------------------------------------------------------------------------------


def test_one_row_a_trial_with_its_spec_and_result(tmp_path: Path) -> None:
    frames = analysis.gather(make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY))
    rows = by_name(frames.trials)
    assert list(rows) == [spec.name for spec in [*DENSE, *TICKETS]]
    for spec in [*DENSE, *TICKETS]:
        row, content = rows[spec.name], record(spec, ACCURACY(spec))
        assert {name: row[name] for name in schema.SPEC_FIELDS} == dataclasses.asdict(spec)
        assert (row["status"], row["reason"], row["key"]) == ("done", None, content["key"])
        for name in set(content["result"]) - {"collapsed_layers"}:
            assert row[name] == content["result"][name], name
        assert row["seconds_total"] == pytest.approx(0.02 * len(content["epochs"]))
        assert row["state_rewind"] == (None if spec.is_dense else "b" * 64)
        assert (row["torch_version"], row["code_version"], row["device"]) == ("2.14.1", "0.1.0", "cpu: test")
        assert (row["n_train"], row["n_valid"], row["n_test"], row["threads"]) == (1150, 287, 360, 1)
        assert row["replicas"] == 1, "its record does not say"
        assert (row["epochs_trained"], row["n_collapsed_layers"]) == (spec.epochs_alone(), 0)


def test_a_record_of_an_earlier_version_has_nulls_for_what_it_does_not_say(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY, skip=[TICKETS[0].name])
    content = record(TICKETS[0], 0.9)
    earlier = ("sparsity_pct", "n_weights", "n_kept", "collapsed_layers", "valid_accuracy", "test_accuracy")
    result = {name: content["result"][name] for name in earlier}
    rows = [{name: value for name, value in row.items() if name != "iterations"} for row in content["epochs"]]
    seal(tmp_path, TICKETS[0], content | {"result": result, "epochs": rows})
    row = by_name(analysis.gather(run).trials)[TICKETS[0].name]
    assert (row["status"], row["test_accuracy"]) == ("done", 0.9)
    assert row["replicas"] == 1
    for name in ("early_stop_iteration", "early_stop_censored", "balanced_accuracy", "flops_sparse", "epochs_total"):
        assert row[name] is None, name


def test_the_number_of_networks_trained_as_one_is_that_of_the_record(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY, skip=[TICKETS[0].name, TICKETS[1].name])
    content = record(TICKETS[0], 0.9)
    seal(tmp_path, TICKETS[0], content | {"fingerprint": content["fingerprint"] | {"replicas": 32}})
    found = by_name(analysis.gather(run).trials)
    assert found[TICKETS[0].name]["replicas"] == 32 and found[TICKETS[1].name]["replicas"] is None
    assert "32 networks as one" in (run / "report.html").read_text()


def test_epochs_and_layers_have_a_row_an_entry(tmp_path: Path) -> None:
    frames = analysis.gather(make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY))
    contents = [record(spec, ACCURACY(spec)) for spec in [*DENSE, *TICKETS]]
    assert len(frames.epochs) == sum(len(content["epochs"]) for content in contents)
    assert len(frames.layers) == sum(len(content["layers"]) for content in contents)
    top = frames.layers[frames.layers.trial == TICKETS[-1].name]
    last = top[top.level == top.level.max()].iloc[0]
    assert last.sparsity_pct == pytest.approx(100 * (1 - last.n_kept / last.n_weights))
    assert last.sparsity_pct == pytest.approx(87.04, abs=0.01)
    assert (top[top.level == 0].sparsity_pct == 0).all()


def test_every_reader_sees_the_same(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY, skip=[TICKETS[0].name])
    frames = analysis.gather(run)
    pd.testing.assert_frame_equal(analysis.load(run).trials, frames.trials)
    for name, expected in WRITTEN.items():
        path = run / "analysis" / f"{name}.parquet"
        rows = parquet.read_table(path).to_pylist()
        assert rows == analysis.as_rows(getattr(frames, name))
        assert pl.read_parquet(path).to_dicts() == rows
        columns = ", ".join(f'"{column}"' for column in expected.names)
        found = duckdb.sql(f"select {columns} from '{path}'")
        assert [dict(zip(expected.names, row, strict=True)) for row in found.fetchall()] == rows
        assert list(pd.read_parquet(path).columns) == expected.names
    assert pl.read_parquet(run / "analysis" / "trials.parquet").schema["rewind_epoch"] == pl.Int64
    counted = duckdb.sql(f"select count(test_accuracy) from '{run}/analysis/trials.parquet'").fetchall()
    assert counted == [(len(DENSE) + len(TICKETS) - 1,)]


def test_pandas_types_keep_whole_numbers_whole(tmp_path: Path) -> None:
    trials = analysis.gather(make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY)).trials
    assert trials.rewind_epoch.dtype == pd.Int64Dtype()
    assert trials[trials.control == "dense"].rewind_epoch.isna().all()
    assert set(trials[trials.control == "none"].rewind_epoch) == {0}
    assert (trials.test_accuracy.dtype, trials.reset_end.dtype) == (float, pd.BooleanDtype())
    assert isinstance(trials.trial.dtype, pd.StringDtype)


def test_gathering_again_gives_the_same_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY)
    settle(run)  # or the index knows the trials as soon as they are two seconds old: at the first gather, or the second

    def contents() -> dict[str, bytes]:
        analysis.gather(run)
        return {path.name: path.read_bytes() for path in [*run.glob("analysis/*"), run / "report.html"]}

    first = contents()
    assert set(first) == {*(f"{name}.parquet" for name in WRITTEN), "index.json", "report.html"}
    assert contents() == first


def test_new_trials_enter_and_repaired_ones_return(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY, skip=[TICKETS[0].name])
    assert by_name(analysis.gather(run).trials)[TICKETS[0].name]["status"] == "missing"
    seal(tmp_path, TICKETS[0], record(TICKETS[0], 0.9))
    assert by_name(analysis.gather(run).trials)[TICKETS[0].name]["test_accuracy"] == 0.9


# -- statuses ----------------------------------------------------------------------------------------------------------


def test_missing_and_failed_trials_are_rows_of_nulls(tmp_path: Path) -> None:
    missing, failed = TICKETS[0], TICKETS[1]
    run = make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY, skip=[missing.name, failed.name])
    folder = run / "trials" / failed.name
    folder.mkdir(parents=True)
    (folder / "failure.json").write_text(json.dumps({"reason": "out of memory", "traceback": "..."}))
    frames = analysis.gather(run)
    rows = by_name(frames.trials)
    assert (rows[missing.name]["status"], rows[missing.name]["reason"]) == ("missing", None)
    assert (rows[failed.name]["status"], rows[failed.name]["reason"]) == ("failed", "out of memory")
    for spec in (missing, failed):
        row = rows[spec.name]
        assert {name: row[name] for name in schema.SPEC_FIELDS} == dataclasses.asdict(spec)
        first = schema.TRIALS.names.index("sparsity_pct")
        assert {row[name] for name in schema.TRIALS.names[first:]} == {None}
    assert set(frames.epochs.trial) == {spec.name for spec in [*DENSE, *TICKETS]} - {missing.name, failed.name}
    assert set(frames.verdicts.n_unpaired) == {2, 0}


def test_a_failure_that_was_retried_is_done(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY)
    (run / "trials" / TICKETS[0].name / "failure.json").write_text(json.dumps({"reason": "first attempt"}))
    row = by_name(analysis.gather(run).trials)[TICKETS[0].name]
    assert (row["status"], row["reason"]) == ("done", None)


def test_diverged_trials_are_shown_and_count_at_chance(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*DENSE, *TICKETS], lambda spec: None if spec == TICKETS[2] else ACCURACY(spec))
    frames = analysis.gather(run)
    row = by_name(frames.trials)[TICKETS[2].name]
    assert (row["status"], row["test_accuracy"], row["n_kept"]) == ("diverged", None, 18072)
    assert "NaN" in row["reason"]
    losses = frames.epochs[frames.epochs.trial == TICKETS[2].name]
    assert len(losses) == 3
    assert losses.train_loss.isna().all()
    verdict = analysis.as_rows(frames.verdicts)[0]
    assert (verdict["n_pairs"], verdict["n_unpaired"], verdict["verdict"]) == (5, 0, "undecided")
    assert verdict["n_diverged"] == 1 and verdict["effect"] < -10 < -2 < verdict["effect_finished"]
    assert "1 of 5 pairs has a diverged trial, at chance accuracy; without them" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / RECORD).write_bytes((folder / RECORD).read_bytes()[:-5]), "bytes"),
        (lambda folder: (folder / RECORD).write_bytes((folder / RECORD).read_bytes()[:-5] + b"~~~~~"), "SHA-256"),
        (lambda folder: (folder / RECORD).unlink(), "bytes"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "manifest.json is unreadable"),
        (lambda folder: reseal(folder / MANIFEST, format=99), "format 99"),
    ],
    ids=["truncated", "altered", "gone", "manifest", "newer"],
)
def test_a_damaged_trial_is_reported_and_the_others_are_gathered(tmp_path: Path, damage: Any, reason: str) -> None:
    run = make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY)
    damage(run / "trials" / TICKETS[3].name)
    frames = analysis.gather(run)
    rows = by_name(frames.trials)
    assert rows[TICKETS[3].name]["status"] == "damaged"
    assert reason in rows[TICKETS[3].name]["reason"]
    assert (rows[TICKETS[3].name]["test_accuracy"], rows[TICKETS[3].name]["seed"]) == (None, 3)
    assert sum(row["status"] == "done" for row in rows.values()) == len(rows) - 1
    assert TICKETS[3].name not in set(frames.layers.trial)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": "0" * 64}, "has the key 000000000000..., the plan"),
        ({"format": 2}, "format 2"),
        ({"spec": TICKETS[0].canonical() | {"warp": 9}}, "unknown fields warp"),
    ],
)
def test_a_record_that_is_not_this_trials_is_not_used(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    run = make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY, skip=[TICKETS[0].name])
    seal(tmp_path, TICKETS[0], record(TICKETS[0], 0.9, changes))
    row = by_name(analysis.gather(run).trials)[TICKETS[0].name]
    assert (row["status"], row["test_accuracy"]) == ("damaged", None)
    assert reason in row["reason"]


def test_a_stored_trial_that_is_not_planned_is_gathered_too(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*DENSE, *TICKETS], ACCURACY)
    extra = TrialSpec(target_sparsity_pct=64, seed=9)
    seal(tmp_path, extra, record(extra, 0.9))
    (run / "trials" / "left-over").mkdir()
    rows = by_name(analysis.gather(run).trials)
    assert rows[extra.name]["status"] == "done"
    assert len(rows) == len(DENSE) + len(TICKETS) + 1


def test_no_finished_trial_gives_valid_tables(tmp_path: Path) -> None:
    specs = digits_like()
    run = make_run(tmp_path, specs, ACCURACY, skip=[spec.name for spec in specs])
    frames = analysis.gather(run)
    assert (len(frames.trials), len(frames.epochs), len(frames.layers)) == (35, 0, 0)
    assert set(frames.trials.status) == {"missing"}
    assert frames.trials.test_accuracy.isna().all()
    assert set(frames.verdicts.verdict) == {"undecided"}
    for name, expected in WRITTEN.items():
        assert parquet.read_schema(run / "analysis" / f"{name}.parquet").equals(expected, check_metadata=True)
    assert pl.read_parquet(run / "analysis" / "epochs.parquet").is_empty()
    assert "no finished tickets yet" in (run / "report.html").read_text()


def test_an_empty_plan_gives_empty_tables(tmp_path: Path) -> None:
    frames = analysis.gather(make_run(tmp_path, [], ACCURACY))
    assert [len(getattr(frames, name)) for name in schema.TABLES] == [0] * len(schema.TABLES)
    assert analysis.answer(frames.verdicts).startswith("No answer yet")


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_loading_before_gathering_says_what_to_do(tmp_path: Path) -> None:
    run = make_run(tmp_path, DENSE, ACCURACY)
    with pytest.raises(UserError, match=r"found no analysis/trials\.parquet.*python -m analysis"):
        analysis.load(run)


def test_what_is_no_run_is_refused_with_the_runs_nearby(tmp_path: Path) -> None:
    make_run(tmp_path, DENSE, ACCURACY)
    with pytest.raises(UserError, match="runs there: run"):
        analysis.gather(tmp_path / "rum")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "nowhere" / "run"):
        with pytest.raises(UserError, match="the folder of a run"):
            analysis.gather(path)
    assert analysis.gather(tmp_path).tables == analysis.gather(tmp_path / "run").tables, "the only run of a storage"
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    with pytest.raises(UserError, match=r"several runs .*; expected one run; name it"):
        analysis.gather(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "test_loss"}, "endpoint: found 'test_loss'; expected one of test_accuracy"),
        ({"margin_pp": -1}, "margin_pp: found -1"),
        ({"alpha": 0.9}, "alpha: found 0.9"),
        ({"alpha": True}, "alpha: found True"),
        ({"format": 3}, "format: found 3"),
        ({"trials": [{"name": "a", "key": "b", "spec": {"warp": 9}}]}, "unknown fields warp"),
        ({"trials": [{"key": "b"}]}, "no entry 'name'"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    run = make_run(tmp_path, DENSE, ACCURACY)
    (run / "plan.json").write_bytes(seal_json(plan(DENSE) | change))
    with pytest.raises(UserError, match=message):
        analysis.gather(run)


def test_a_broken_plan_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, DENSE, ACCURACY)
    (run / "plan.json").write_text("{")
    with pytest.raises(UserError, match="not readable as a plan"):
        analysis.gather(run)


def test_a_record_of_a_wrong_type_is_an_error_not_a_wrong_number() -> None:
    with pytest.raises(pa.ArrowInvalid):
        schema.table("layers", [{"trial": "a", "n_kept": "many"}])


def test_the_largest_seeds_are_gathered_and_paired_as_they_are(tmp_path: Path) -> None:
    """A float cannot tell these seeds apart."""
    seeds = [MOST_SEED - i for i in range(3)]
    specs = [dataclasses.replace(spec, seed=seed) for seed in seeds for spec in (*dense(1), *ladder(64, seeds=1))]
    frames = analysis.gather(make_run(tmp_path, specs, ACCURACY))
    assert sorted({row["seed"] for row in frames.rows("trials")}, reverse=True) == seeds
    assert sorted(map(int, frames.trials["seed"].unique()), reverse=True) == seeds
    (row,) = [row for row in frames.rows("verdicts") if row["claim"] == "matches"]
    assert (row["n_pairs"], row["n_unpaired"]) == (3, 0)


def test_an_older_trial_on_a_gpu_is_not_taken_for_fp32(tmp_path: Path) -> None:
    """Its spec says fp32, but its convolutions ran in TF32; new ones say how their weights were laid out."""
    specs, older = dense(2), {"device": "cuda: H100", "threads": 1, "deterministic": True, "code": "0.4.0"}
    run = make_run(tmp_path, specs, ACCURACY)
    for spec, more in zip(specs, ({}, {"memory_format": "channels_last"}), strict=True):
        seal(tmp_path, spec, record(spec, 0.9, {"fingerprint": {**older, **more}}))
    rows = {row["seed"]: row for row in analysis.gather(run).rows("trials")}
    assert [(rows[seed]["precision"], rows[seed]["memory_format"]) for seed in (0, 1)] == [
        ("tf32", None), ("fp32", "channels_last"),
    ]  # fmt: skip
