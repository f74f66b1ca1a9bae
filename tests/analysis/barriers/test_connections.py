"""`python -m analysis barrier --between levels` and `--between dense`: lines between trained networks of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

import analysis
import lth_trainable.training.run as training
from analysis.__main__ import main
from analysis.barriers.connections import connection_sentences, connections
from analysis.barriers.ends import DENSE as TO_DENSE
from analysis.barriers.ends import LEVELS
from analysis.barriers.networks import barrier_between
from analysis.figures.connections import dense_figure, levels_figure
from analysis.figures.style import to_svg
from analysis.report.connections import connection_tables
from analysis.tables.schema import TABLES
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.instability import alphas
from lth_trainable.training.lifecycle import Keep
from tests.support.mirror import DENSE, LENET, MIRRORED, TICKETS, error_halfway, make_mirrored_run, train_lenets
from tests.support.svg import texts


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_lenets(tmp_path_factory.mktemp("lenets"))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.parent, tmp_path / "runs")) / "run"


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
    monkeypatch.setattr(found, lambda _: {**here, "torch": "another"})
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


def test_a_barrier_between_unequal_networks_is_above_the_line_between_their_errors() -> None:
    found = barrier_between([2.0, 4.0, 9.0, 8.0], alphas(4))
    assert found["barrier_pp"] == pytest.approx(9 - 6)
    assert found["at_max"] == pytest.approx(2 / 3)
    assert barrier_between([0.0, 5.0, 10.0], alphas(3))["barrier_pp"] == 0, "a steady rise is no barrier"
    assert barrier_between([5.0, 1.0, 5.0], alphas(3))["barrier_pp"] == 0


# -- what is said -----------------------------------------------------------------------------------------------------


def row(level: int, seed: int, ends: tuple[float, float], middle: float, between: str = LEVELS) -> list[dict[str, Any]]:
    """Rows of a line from one level to the next with these errors."""
    errors = [ends[0], middle, ends[1]]
    sparsities = [0.0, 20.0, 36.0, 48.8]
    return [
        {
            "trial": f"digits-net-imp-s48.8-r0-seed{seed}", "group": "digits-net-imp-s48.8-r0", "margin_pp": 1.0,
            "ladder": "digits-net-imp-r0", "seed": seed, "between": between, "level_a": level - 1, "level_b": level,
            "sparsity_a_pct": sparsities[level - 1], "sparsity_b_pct": sparsities[level],
            "state_a": f"{level - 1}{seed}", "state_b": f"{level}{seed}",
            "part": part, "batch_norm": kind, "n_points": 3, "alphas": list(alphas(3)),
            "errors_pct": errors, "device": "cpu", **barrier_between(errors, alphas(3)),
        }
        for part in ("train", "test") for kind in ("raw", "recomputed")
    ]  # fmt: skip


ROWS = [
    *row(1, 0, (4.0, 4.2), 4.0), *row(1, 1, (5.0, 5.0), 6.0),  # connected and matching
    *row(2, 0, (4.2, 7.0), 12.0), *row(2, 1, (5.0, 8.0), 12.0),  # neither
    *row(3, 0, (7.0, 7.0), 7.0), *row(3, 1, (8.0, 8.0), 8.0),  # connected, though it does not match
]  # fmt: skip


def test_table_sentence_and_figure_say_where_the_rule_of_the_paper_holds() -> None:
    (table,) = connection_tables(ROWS)
    columns = {c.header: list(c.cells) for c in table.columns}
    assert columns["line"] == ["dense – 20 %", "20 – 36 %", "36 – 48.8 %"]
    assert columns["test"] == ["0.50 (1.00)", "5.95 (6.40)", "0.00 (0.00)"]
    assert columns["above\ndense"] == ["+0.10", "+3.00", "+3.00"]
    assert columns["connected"] == ["yes", "no", "yes"]
    assert columns["matches"] == ["yes", "no", "no"]
    assert columns["rule"] == ["yes", "yes", "no"]
    first, explained = connection_sentences(ROWS)
    assert "connected are dense – 20 %, 36 – 48.8 %; not connected are 20 – 36 %" in first
    assert "holds for 2 of 3 pairs; not for 36 – 48.8 % (connected, not both match)" in first
    assert "at most 1 pp above the dense one, over 2 seeds" in explained
    figure = levels_figure(ROWS)
    assert figure is not None
    words = texts(to_svg(figure))
    for text in ("imp, rewind epoch 0, test: rule holds 2 of 3", "dense", "48.8", "does not match"):
        assert any(text.lower() in word.lower() for word in words), text
    assert any("not connected" in word for word in words)


def test_the_line_to_the_dense_network_is_held_to_no_rule() -> None:
    rows = row(1, 0, (4.0, 8.0), 12.0, TO_DENSE)
    (table,) = connection_tables(rows)
    assert "rule" not in [column.header for column in table.columns]
    assert "does not say that the ticket fails" in connection_sentences(rows)[-1]
    assert levels_figure(rows) is None
    assert dense_figure(rows) is not None


def test_of_several_numbers_of_points_the_finest_counts() -> None:
    coarse = row(1, 0, (4.0, 4.0), 4.0)
    fine = [{**r, "n_points": 30, "barrier_pp": 5.0} for r in coarse]
    (pair,) = connections([*coarse, *fine], LEVELS)
    assert pair.barriers("test", "raw") == [5.0]
    assert pair.n_seeds == 1


def _ticket(target: float) -> TrialSpec:
    return TrialSpec(**LENET, target_sparsity_pct=target, rewind_epoch=0)
