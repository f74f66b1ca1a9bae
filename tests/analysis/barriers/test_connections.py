"""`python -m analysis barrier --between levels` and `--between dense`: lines between trained networks of a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

import analysis
import lth_trainable.training.instability as instability
import lth_trainable.training.run as training
from analysis.__main__ import main
from analysis.barriers.connections import connections
from analysis.barriers.ends import DENSE as TO_DENSE
from analysis.barriers.ends import LEVELS
from analysis.tables.schema import TABLES
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.lifecycle import Keep
from tests.support.mirror import DENSE, LENET, MIRRORED, TICKETS, error_halfway, make_mirrored_run, train_lenets
from tests.support.runs import copied


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_lenets(tmp_path_factory.mktemp("lenets"))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return copied(trained, tmp_path / "runs")


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the trials whose end is trained for a line."""
    names: list[str] = []
    train = training.train_state

    def noted(spec: TrialSpec, *rest: Any) -> None:
        names.append(spec.name)
        train(spec, *rest)

    monkeypatch.setattr(training, "train_state", noted)
    return names


def barrier(run: Path, between: str, *arguments: str) -> int:
    return main(["barrier", str(run), "--between", between, "--points", "5", *arguments])


def rows_of(run: Path) -> list[dict[str, Any]]:
    return parquet.read_table(run / "analysis" / "connections.parquet").to_pylist()


def weights_of(run: Path, row: dict[str, Any], end: str) -> bytes:
    return next((run.parent / row[f"state_{end}"]).glob("weights*")).read_bytes()


# -- a LeNet that is stable from its initialisation on ----------------------------------------------------------------


def test_a_stable_lenet_is_connected_from_level_to_level(
    run: Path, trainings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in (run / "trials").iterdir())
    assert barrier(run, "levels", "--dry-run") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "2 networks of these lines" in out
    assert "--keep-states levels" in out
    assert "4 lines of 5 points; 2 networks to train, 20 epochs" in out
    assert barrier(run, "levels") == 0
    between = [spec.name for spec in (_ticket(40.0), _ticket(78.4))]
    assert trainings == between, "levels 1 and 3, at which no trial of the run ends"
    rows = rows_of(run)
    assert {(r["level_a"], r["level_b"]) for r in rows} == {(0, 1), (1, 2), (2, 3), (3, 4)}
    assert all(row["connected"] for row in rows)
    assert "all of the 4 pairs are connected" in capsys.readouterr().out
    assert sorted(path.name for path in (run / "trials").iterdir()) == before, "no trial was added"
    table = parquet.read_table(run / "analysis" / "connections.parquet")
    assert table.schema.equals(TABLES["connections"], check_metadata=True)

    trainings.clear()
    shutil.rmtree(run / "analysis")
    assert barrier(run, "levels") == 0
    assert not trainings
    assert rows_of(run) == rows
    assert len(analysis.gather(run).connections) == len(rows)


def test_a_level_that_is_trained_later_is_the_one_a_sweep_stores(run: Path, tmp_path: Path) -> None:
    assert barrier(run, "levels") == 0
    (row,) = [r for r in rows_of(run) if r["level_b"] == 3 and (r["part"], r["batch_norm"]) == ("test", "raw")]
    for target in (40.0, 78.4):
        training.run_trial(_ticket(target), Store(tmp_path / "alone"), "other")
    (alone,) = (tmp_path / "alone" / row["state_b"]).glob("weights*")
    assert weights_of(run, row, "b") == alone.read_bytes()


def test_a_lenet_is_stable_to_sgd_noise_from_its_initialisation_on(run: Path) -> None:
    assert main(["barrier", str(run), TICKETS[64.0].name, "--points", "5"]) == 0
    rows = parquet.read_table(run / "analysis" / "barriers.parquet").to_pylist()
    assert {row["rewound_to"] for row in rows} == {"0"}
    assert all(row["stable"] for row in rows)


def test_dense_and_ticket_are_connected_without_training(run: Path, trainings: list[str]) -> None:
    assert barrier(run, "dense") == 0
    rows = rows_of(run)
    assert not trainings
    assert {row["trial"] for row in rows} == {spec.name for spec in TICKETS.values()}
    assert {(row["sparsity_a_pct"], row["level_a"]) for row in rows} == {(0.0, 0)}
    dense, ticket = (json.loads((run / "trials" / s.name / "record.json").read_bytes()) for s in (DENSE, TICKETS[64.0]))
    (row,) = [
        r for r in rows if (r["trial"], r["part"], r["batch_norm"]) == (TICKETS[64.0].name, "test", "raw")
    ]  # fmt: skip
    assert row["error_a_pct"] == pytest.approx(100 * (1 - dense["result"]["test_accuracy"]))
    assert row["error_b_pct"] == pytest.approx(100 * (1 - ticket["result"]["test_accuracy"]))


def test_a_run_that_kept_weights_alone_is_trained_again_where_it_must(tmp_path: Path, trainings: list[str]) -> None:
    run = train_lenets(tmp_path, Keep(states={}, resumable=False))
    assert barrier(run, "levels", TICKETS[64.0].name) == 0
    assert trainings == [_ticket(40.0).name]
    assert {(r["level_a"], r["level_b"]) for r in rows_of(run)} == {(0, 1), (1, 2)}


def test_another_machine_leaves_out_what_it_could_not_train_the_same(
    run: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = "lth_trainable.training.execution.fingerprint"
    here = json.loads((run / "trials" / DENSE.name / "record.json").read_bytes())["fingerprint"]
    monkeypatch.setattr(found, lambda *_: {**here, "torch": "another"})
    assert barrier(run, "levels") == 2
    err = capsys.readouterr().err
    assert "4 lines left out" in err
    assert "torch differ here" in err
    assert err.count("\n") == 1
    assert barrier(run, "dense") == 0, "both ends are stored"
    assert not trainings


def test_a_damaged_network_is_trained_again(run: Path, trainings: list[str]) -> None:
    assert barrier(run, "levels") == 0
    rows = rows_of(run)
    shutil.rmtree(run / "barriers")
    one = next((run.parent / rows[0]["state_b"]).glob("weights*"))
    one.write_bytes(one.read_bytes()[:-1] + b"?")
    trainings.clear()
    assert barrier(run, "levels") == 0
    assert trainings == [_ticket(40.0).name]
    assert rows_of(run) == rows


def test_json_is_one_object(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert barrier(run, "dense", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["cost"] | {"seconds": 0} == {
        "tickets": 2, "lines": 2, "lines_left": 2, "networks_left": 0, "epochs": 0, "seconds": 0,
    }  # fmt: skip
    assert content["rows"] == rows_of(run)
    assert content["connected"]
    assert all(Path(path).exists() for path in content["files"].values())


@pytest.mark.parametrize(
    ("between", "said"), [("levels", "a dense trial has one level"), ("dense", "is the other end of the line")]
)
def test_a_dense_trial_alone_has_no_line(
    trained: Path, between: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert barrier(trained, between, DENSE.name) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


# -- a pair whose barrier is known ------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [LEVELS, TO_DENSE])
def test_the_barrier_of_a_mirrored_network_is_the_one_worked_out_by_hand(
    tmp_path: Path, between: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_mirrored_run(tmp_path)
    assert barrier(run, between) == 0
    rows = rows_of(run)
    assert {row["trial"] for row in rows} == {MIRRORED[0].name}
    for row in rows:
        assert row["error_a_pct"] == row["error_b_pct"] < 15, "the same function at both ends"
        assert row["errors_pct"][2] == pytest.approx(error_halfway(row["part"]), abs=1e-4)
        assert row["barrier_pp"] == pytest.approx(error_halfway(row["part"]) - row["error_a_pct"], abs=1e-4)
        assert (row["at_max"], row["connected"]) == (0.5, False)
    out = capsys.readouterr().out
    (pair,) = connections(rows, between)
    assert (pair.is_connected, pair.matches) == (False, True)
    assert "dense – 40 % is not connected" in out
    if between == LEVELS:
        assert "holds for 0 of 1 pairs; not for dense – 40 % (not connected, both match)" in out


def test_the_same_networks_as_levels_and_as_dense_and_ticket_are_two_lines(tmp_path: Path) -> None:
    run = make_mirrored_run(tmp_path)
    assert [barrier(run, between) for between in (LEVELS, TO_DENSE)] == [0, 0]
    assert {row["between"] for row in rows_of(run)} == {LEVELS, TO_DENSE}
    assert {(row["state_a"], row["state_b"]) for row in rows_of(run)} == {
        (row["state_a"], row["state_b"]) for row in rows_of(run)[:1]
    }


def test_seeds_with_splits_of_their_own_are_one_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specs = [replace(spec, seed=seed, split_seed=seed) for seed in (1, 2) for spec in MIRRORED]
    run = make_mirrored_run(tmp_path, specs)
    assert barrier(run, TO_DENSE, "--seeds", "1", "--dry-run") == 0
    assert "1 ticket, " in capsys.readouterr().out, "the first of its group"
    for between in (LEVELS, TO_DENSE):
        assert barrier(run, between, "--seeds", "2") == 0
    rows = rows_of(run)
    assert {row["seed"] for row in rows} == {1, 2}
    assert len({(row["group"], row["ladder"]) for row in rows}) == 1
    assert "split" not in rows[0]["group"]
    assert barrier(run, TO_DENSE, rows[0]["group"]) == 0, "a group can be named"
    assert main(["barrier", str(run), "--points", "3"]) == 0
    copies = parquet.read_table(run / "analysis" / "barriers.parquet").to_pylist()
    assert len(copies) == 2 * 2 * 4
    assert len({row["group"] for row in copies}) == 2, "the tickets, and the dense networks"
    assert {row["baseline_group"] for row in copies} == {row["group"] for row in copies if row["ladder"] is None}


@pytest.mark.parametrize("between", [LEVELS, TO_DENSE])
def test_a_network_that_is_lost_is_made_again_and_the_note_blames_no_setting(
    tmp_path: Path, between: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_mirrored_run(tmp_path)
    record = json.loads((run / "trials" / MIRRORED[1].name / "manifest.json").read_bytes())
    shutil.rmtree(run.parent / record["states"]["final"])
    assert barrier(run, between, "--dry-run") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "the states of 1 network of these lines are not stored, or are damaged" in out
    assert "ends with" not in out, "a trial of the run does end with it"
    assert ("--keep-states levels" in out) == (between == LEVELS)
    assert barrier(run, between) == 0


def test_a_damaged_line_is_measured_again_with_the_settings_of_its_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, threads, measure = make_mirrored_run(tmp_path), list[int](), instability.errors_between

    def measured(*arguments: Any) -> Any:
        threads.append(torch.get_num_threads())
        return measure(*arguments)

    monkeypatch.setattr(instability, "errors_between", measured)
    here = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for what in (["--between", "dense"], []):
            assert main(["barrier", str(run), "--points", "3", *what]) == 0
        for path in run.glob("barriers/*/*/rows.json"):
            path.write_bytes(b" " * path.stat().st_size)  # sealed, judging by the sizes
        n = len(threads)
        for what in (["--between", "dense"], []):
            assert main(["barrier", str(run), "--points", "3", *what]) == 0
    finally:
        torch.set_num_threads(here)
    assert len(threads) == 2 * n == 6, "a line to the dense network, and one of copies for it and for the ticket"
    assert set(threads) == {1}


def _ticket(target: float) -> TrialSpec:
    return TrialSpec(**LENET, target_sparsity_pct=target, rewind_epoch=0)
