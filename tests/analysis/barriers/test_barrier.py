"""`python -m analysis barrier`: which networks it chooses, what it costs, stores and prints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

import analysis
import lth_trainable.training.copy_task as copy_task
from analysis.__main__ import main
from analysis.barriers.jobs import Settings
from analysis.barriers.networks import barrier_of
from analysis.report.barriers import barrier_table, stable_sentences
from analysis.tables.schema import TABLES
from lth_trainable.training.instability import Copy, Start, alphas, train_copy
from tests.support.barriers import CONTROLS, DENSE, OTHERS, TICKETS, train_run
from tests.support.command import ROOT
from tests.support.runs import copied
from tests.support.svg import texts


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return copied(trained, tmp_path / "runs")


def barrier(run: Path, *arguments: str) -> int:
    return main(["barrier", str(run), *arguments])


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Name and order seed of every copy that is trained."""
    trained: list[tuple[str, int]] = []

    def train(start: Start, order_seed: int) -> Copy:
        trained.append((start.spec.name, order_seed))
        return train_copy(start, order_seed)

    monkeypatch.setattr(copy_task, "train_copy", train)
    return trained


def rows_of(run: Path) -> list[dict[str, Any]]:
    return parquet.read_table(run / "analysis" / "barriers.parquet").to_pylist()


def test_the_run_is_measured_stored_and_not_trained_twice(
    run: Path, trainings: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert barrier(run, "--points", "4", "--dry-run") == 0
    assert "4 tickets and 3 points of dense networks: 7 lines of 4 points; 14 copies to train, 32 epochs" in " ".join(
        capsys.readouterr().out.split()
    )
    assert not trainings
    assert not (run / "barriers").exists()
    assert barrier(run, "--points", "4") == 0
    times = {DENSE.name: 3} | {
        ticket.name: 1 for ticket in TICKETS.values()
    }  # the dense network starts from three points
    assert Counter(trainings) == {(name, seed): n for name, n in times.items() for seed in (1001, 1002)}
    before = (run / "analysis" / "barriers.parquet").read_bytes()
    out = capsys.readouterr().out
    assert "note: 1 trial left out: a supermask is not trained" in out
    assert "BatchNorm statistics recomputed" in out
    figure = texts((run / "analysis" / "barriers.svg").read_bytes())
    for text in ("rewind epoch 0, test", "rewind iteration 7, train", "dense", "64 %", "BatchNorm interpolated"):
        assert text in figure

    trainings.clear()
    shutil.rmtree(run / "analysis")
    assert barrier(run, "--points", "4") == 0
    assert not trainings
    assert (run / "analysis" / "barriers.parquet").read_bytes() == before

    assert barrier(run, TICKETS["1"].name, "--points", "4", "--order-seeds", "1003", "1001", "1002") == 0
    assert sorted(trainings) == [(DENSE.name, 1003), (TICKETS["1"].name, 1003)]
    assert len(rows_of(run)) == 4 * (7 + 2 * 2)


def test_rows_say_what_they_are_of(run: Path) -> None:
    assert barrier(run, TICKETS["7it"].name, "--points", "5") == 0
    table = parquet.read_table(run / "analysis" / "barriers.parquet")
    assert table.schema.equals(TABLES["barriers"], check_metadata=True)
    rows = table.to_pylist()
    assert [(r["trial"], r["part"], r["batch_norm"]) for r in rows] == [
        (spec.name, part, kind)
        for spec in (DENSE, TICKETS["7it"])
        for part in ("train", "test")
        for kind in ("raw", "recomputed")
    ]
    for row in rows:
        assert (row["rewound_to"], row["rewound_to_step"], row["epochs"], row["n_points"]) == ("7it", 7, 2, 5)
        assert (row["order_seed_a"], row["order_seed_b"], row["seed"], row["status"]) == (1001, 1002, 0, "done")
        assert row["alphas"] == [0, 0.25, 0.5, 0.75, 1]
        assert (row["error_a_pct"], row["error_b_pct"]) == (row["errors_pct"][0], row["errors_pct"][-1])
        assert row["error_max_pct"] == max(row["errors_pct"])
        assert row["barrier_pp"] == max(row["errors_pct"]) - (row["errors_pct"][0] + row["errors_pct"][-1]) / 2
        assert row["stable"] == (row["barrier_pp"] < 2)
    assert [r["sparsity_pct"] > 60 for r in rows] == [False] * 4 + [True] * 4
    assert {r["baseline_group"] for r in rows} == {rows[0]["group"]}
    assert len(analysis.gather(run).barriers) == len(analysis.load(run).barriers) == 8, "gathering leaves them alone"


def test_controls_are_looked_at_when_they_are_named(run: Path) -> None:
    assert barrier(run, *(spec.name for spec in CONTROLS.values()), "--points", "3") == 0
    found = {row["trial"]: (row["rewound_to"], row["epochs"]) for row in rows_of(run)}
    assert found == {
        DENSE.name: ("1", 2), CONTROLS["random_mask"].name: ("1", 2), CONTROLS["reinit"].name: ("0", 3),
    }, "a new initialisation starts at step 0, and no dense network of the run started from it"  # fmt: skip


def test_json_is_one_object_and_nothing_else(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert barrier(run, TICKETS["1"].name, "--points", "3", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["cost"] | {"seconds": 0} == {
        "tickets": 1, "dense": 1, "lines": 2, "lines_left": 2, "copies_left": 4, "epochs": 8, "seconds": 0,
    }  # fmt: skip
    assert content["rows"] == rows_of(run)
    assert all(Path(path).exists() for path in content["files"].values())


def test_a_kill_costs_the_copy_in_training_alone(
    run: Path, monkeypatch: pytest.MonkeyPatch, trainings: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    train, name = copy_task.train_copy, TICKETS["1"].name

    def killed(start: Start, order_seed: int) -> Copy:
        if (start.spec.name, order_seed) == (name, 1002):
            raise KeyboardInterrupt
        return train(start, order_seed)

    monkeypatch.setattr(copy_task, "train_copy", killed)
    assert barrier(run, name, "--points", "3") == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert trainings == [(DENSE.name, 1001), (DENSE.name, 1002), (name, 1001)]
    monkeypatch.setattr(copy_task, "train_copy", train)
    trainings.clear()
    assert barrier(run, name, "--points", "3") == 0
    assert trainings == [(name, 1002)]


@pytest.mark.parametrize("part", ["copies", "lines"])
def test_what_is_damaged_is_made_again(run: Path, trainings: list[tuple[str, int]], part: str) -> None:
    name = TICKETS["1"].name
    assert barrier(run, name, "--points", "3") == 0
    before = rows_of(run)
    shutil.rmtree(run / "barriers" / "lines")
    if part == "copies":
        one = next((run / "barriers" / "copies").glob("*/weights.safetensors"))
        whole = one.read_bytes()
        one.write_bytes(whole[:-1] + b"?")
    trainings.clear()
    assert barrier(run, name, "--points", "3") == 0
    assert len(trainings) == (part == "copies")
    assert rows_of(run) == before
    assert part == "lines" or one.read_bytes() == whole, "and stored again"


def test_a_diverged_copy_is_a_row_without_errors(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(start: Start, order_seed: int) -> Copy:
        hot = replace(start, spec=replace(start.spec, lr=1e30)) if order_seed == 1002 else start
        return train_copy(hot, order_seed)

    monkeypatch.setattr(copy_task, "train_copy", train)
    assert barrier(run, TICKETS["1"].name, "--points", "3") == 0
    rows = rows_of(run)
    assert {row["status"] for row in rows} == {"diverged"}
    assert {row["barrier_pp"] for row in rows} == {row["stable"] for row in rows} == {None}
    assert "1 line diverged" in capsys.readouterr().out
    assert barrier(run, TICKETS["1"].name, "--points", "3", "--json") == 0, "stored, and not trained again"


# -- what cannot be measured ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["nobody"],
            "error: TRIAL: found 'nobody'; expected a trial of the run, or a group: a name without its seed; ",
        ),
        ([OTHERS["supermask"].name], "a supermask is not trained"),
        ([OTHERS["fit"].name], "one_shot prunes within one fit"),
        ([OTHERS["lr_rewinding"].name], "lr_rewinding rewinds no weights"),
        ([OTHERS["missing"].name], "found 'none that is finished and not excluded'"),
        (["--order-seeds", "1", "1"], "error: order-seeds: found [1, 1]"),
        (["--order-seeds", "1"], "error: order-seeds: found [1]"),
        (["--points", "2"], "error: points: found 2"),
        (["--seeds", "0"], "error: seeds: found 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    trained: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert barrier(trained, *arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (trained / "barriers").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_named_with_the_way_out(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert barrier(trained, "--device", "cuda") == 2
    assert "--device cpu" in capsys.readouterr().err


def test_excluded_trials_are_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    excluded = [ticket.name for which, ticket in TICKETS.items() if which != "1"]
    assert main([str(run), "--exclude", *excluded, "--reason", "the disk was full"]) == 0
    capsys.readouterr()
    assert barrier(run, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "note: 4 trials left out: not finished, or excluded" in out, "three of them, and one that is missing"
    assert "1 ticket and 1 point of dense networks" in out
    assert barrier(run, excluded[0]) == 2


def test_a_run_whose_states_are_gone_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run.parent / "states")
    assert barrier(run, TICKETS["1"].name) == 2
    assert "found no such state; expected the trial's rewind weights; rerun" in capsys.readouterr().err


def test_other_data_or_code_than_the_trial_was_trained_with_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lth_trainable.spec.trial_spec.code_digest", lambda name: "edited" if ":" in name else None)
    assert barrier(run, TICKETS["1"].name) == 2
    assert "its plug-in code, is not what it was trained with" in capsys.readouterr().err


def test_the_command_loads_neither_torch_nor_ray_before_it_must() -> None:
    heavy = "{'torch', 'ray', 'fastai', 'matplotlib'}"
    code = f"import sys, analysis.commands.barrier; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


# -- numbers and words -----------------------------------------------------------------------------------------------


def test_the_barrier_is_the_highest_error_minus_the_mean_of_the_ends() -> None:
    found = barrier_of([4.0, 9.0, 9.0, 6.0], alphas(4))
    assert (found["barrier_pp"], found["at_max"], found["stable"]) == (4.0, pytest.approx(1 / 3), False)
    assert barrier_of([4.0, 2.0, 6.0], alphas(3))["barrier_pp"] == 1.0, "the ends are on the line"
    assert barrier_of([1.0, 3.0, 1.0], alphas(3))["stable"] is False, "2 pp is not below 2 pp"


def row(target: float | None, rewound_to: str, barriers: tuple[float, float], seed: int = 0) -> list[dict[str, Any]]:
    """Rows of one line with these barriers (raw, recomputed) on test and training data."""
    step = int(rewound_to.removesuffix("it")) * (1 if rewound_to.endswith("it") else 100)
    group = "digits-net-dense" if target is None else f"digits-net-imp-s{target:g}-r{rewound_to}"
    return [
        {
            "trial": f"{group}-seed{seed}", "group": group, "baseline_group": "digits-net-dense", "seed": seed,
            "ladder": None if target is None else f"digits-net-imp-r{rewound_to}", "target_sparsity_pct": target,
            "rewound_to": rewound_to, "rewound_to_step": step, "order_seed_a": 1, "order_seed_b": 2, "device": "cpu",
            "part": part, "batch_norm": kind, **barrier_of([5.0, 5.0 + height, 5.0], alphas(3)), "n_points": 3,
            "alphas": list(alphas(3)),
        }
        for part in ("train", "test")
        for kind, height in zip(("raw", "recomputed"), barriers, strict=True)
    ]  # fmt: skip


def test_the_sentence_says_from_which_point_each_network_is_stable() -> None:
    rows = [
        *row(None, "0", (9, 9)), *row(None, "50it", (1, 1)), *row(None, "1", (1, 1)),
        *row(50, "0", (3, 3)), *row(50, "0", (0.5, 0.5), seed=1), *row(50, "50it", (3, 3)), *row(50, "1", (1, 1)),
        *row(90, "0", (1, 1)), *row(90, "50it", (3, 3)), *row(90, "1", (3, 3)),
    ]  # fmt: skip
    (sentence,) = stable_sentences(rows)
    assert sentence == (
        "Stable to SGD noise (mean barrier on test below 2 pp): dense from iteration 50 on; 50 % from epoch 1 on; "
        "90 % at none of epoch 0, iteration 50, epoch 1."
    )
    columns = {c.header: list(c.cells) for c in barrier_table(rows).columns}
    assert columns["tickets"][:3] == ["rewind epoch 0", "", ""]
    assert columns["network"] == ["dense", "50 %", "90 %"] * 3
    assert columns["test"][1] == "1.75 (3.00)"
    assert columns["seeds"][1] == "2"
    assert columns["stable"] == ["no", "yes", "yes", "yes", "no", "no", "yes", "yes", "no"]


def test_the_kind_of_statistics_is_told_apart_where_it_matters() -> None:
    rows = [*row(None, "0", (9, 1)), *row(50, "0", (9, 9))]
    raw, recomputed = stable_sentences(rows)
    assert raw.endswith("BatchNorm statistics raw): dense and 50 % not at epoch 0.")
    assert recomputed.endswith("BatchNorm statistics recomputed): dense from epoch 0 on; 50 % not at epoch 0.")
    columns = {c.header: list(c.cells) for c in barrier_table(rows).columns}
    assert columns["test\nraw"] == ["9.00", "9.00"]
    assert columns["stable"] == ["recomputed", "no"]


def test_order_seeds_make_pairs_in_one_order() -> None:
    assert Settings(order_seeds=(7, 3, 5)).pairs == ((3, 5), (3, 7), (5, 7))
