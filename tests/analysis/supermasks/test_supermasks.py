"""`python -m analysis supermasks`: its table on a small trained run, and what is read from such tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import analysis
from analysis.__main__ import main
from analysis.export.archive import pack
from analysis.supermasks.rounds import sparsities
from analysis.supermasks.summary import arms
from analysis.supermasks.words import sentences
from lth_trainable.data.datasets import load_dataset
from lth_trainable.store.trials import load_trial
from tests.support.records import make_run
from tests.support.trained import DENSE, TICKET, train_ticket_and_dense

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_ticket_and_dense(tmp_path_factory.mktemp("runs"))


def test_the_table_has_each_mask_with_both_treatments(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--criteria", "large_final", "large_final_same_sign", "--rounds", "2", "5", "--json"]
    assert main(["supermasks", str(run), *arguments]) == 0
    said = json.loads(capsys.readouterr().out)
    analysis.gather(run)  # keeps the table
    rows = analysis.load(run).rows("supermasks")
    keys = {(row["found"], row["criterion"], row["round"], row["weights"]) for row in rows}
    one_shot = {("one_shot", c, n) for c in ("large_final", "large_final_same_sign", "random") for n in (2, 5)}
    expected = {*one_shot, ("rounds", "large_final", 2), ("rounds", "random", 2)}
    assert keys == {(*key, weights) for key in expected for weights in ("initial", "signed_constants")}
    assert len(rows) == len(keys) and len(said["arms"]) == 10
    assert (run / "analysis" / "supermasks.svg").exists()
    for row in rows:  # the output layer of LeNet loses 10 % a round, the others 20 %
        n = row["round"]
        if row["found"] == "one_shot":
            assert row["n_kept"] == pytest.approx(49_200 * 0.8**n + 1_000 * 0.9**n, abs=2)
    ticket, random = [row for row in rows if row["found"] == "rounds" and row["weights"] == "initial"]
    assert random["n_kept"] == ticket["n_kept"] and random["criterion"] == "random"
    assert ticket["trial"] == TICKET.name and ticket["weights_left_pct"] == pytest.approx(36, abs=0.01)
    network = load_trial(run / "trials" / TICKET.name, "initial")  # its initial weights under its mask
    test = load_dataset("digits").test
    with torch.no_grad():
        right = network(torch.from_numpy(test.x)).argmax(1) == torch.from_numpy(test.y)
    assert ticket["test_accuracy"] == pytest.approx(float(right.float().mean()))


def test_without_a_dense_network_there_are_no_supermasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path, [DENSE], lambda spec: 0.9, skip=[DENSE.name])
    assert main(["supermasks", str(folder)]) == 2
    assert "found no finished dense trial" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--criteria", "large_finl"], "did you mean large_final?"),
        (["--criteria", "wanda"], "it needs more than the final weights"),
        (["--criteria", "random"], "random masks are always measured"),
        (["--rounds", "0"], "whole numbers from 1 to 100"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["supermasks", str(run), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_an_unpacked_archive_has_no_weights_to_measure(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.unpack_archive(pack(run, tmp_path / "run.tar.gz", ["none"]).path, tmp_path / "elsewhere", filter="data")
    assert main(["supermasks", str(tmp_path / "elsewhere" / run.name)]) == 2
    err = capsys.readouterr().err
    assert "found a record without weights, as an unpacked archive has it" in err and err.count("\n") == 1


# -- rates, and what is read from a table ------------------------------------------------------------------------------


def test_each_kind_of_layer_has_the_papers_rate() -> None:
    kinds = {"a": "convolution", "b": "linear", "c": "output"}
    found = {model: sparsities(model, kinds, 1) for model in ("conv_4", "conv_6", "resnet20")}
    assert [[float(100 * s) for s in layers.values()] for layers in found.values()] == [
        [10, 20, 10], [15, 20, 10], [20, 20, 20]
    ]  # fmt: skip


def rows_like(accuracies: dict[tuple[str, int], tuple[float, float]], seeds: int = 5) -> Rows:
    """Rows of one network. accuracies: validation and test accuracy by criterion and round."""
    about = {"dataset": "mnist", "model": "lenet_300_100", "found": "one_shot", "weights": "initial"}
    return [
        {
            **about, "criterion": criterion, "round": n, "seed": seed, "n_kept": 100 // n, "weights_left_pct": 100 / n,
            "valid_accuracy": valid, "test_accuracy": test + 0.001 * seed, "majority_class_accuracy": 0.1,
        }
        for (criterion, n), (valid, test) in accuracies.items() for seed in range(seeds)
    ]  # fmt: skip


def test_the_sparsity_is_chosen_on_validation_and_told_on_test() -> None:
    rows = rows_like({("a", 1): (0.8, 0.7), ("a", 2): (0.7, 0.9), ("random", 1): (0.1, 0.2), ("random", 2): (0.2, 0.1)})
    a, random = arms(rows)
    assert (a.criterion, a.round, a.n, random.round) == ("a", 1, 5, 2)
    assert a.accuracy_pct == pytest.approx(70.2) and a.interval is not None
    assert a.interval.low < 70.2 < a.interval.high
    assert a.random_pp == pytest.approx(50) and a.p is not None and random.random_pp is None
    (sentence,) = sentences([a, random])
    assert sentence == (
        "mnist, LeNet-300-100, initial weights: the best masks are by a (one shot, 100.0 % of the weights left): 70.2 "
        "[70.0, 70.4] % of the test images right, 5 seeds; the best random masks 10.2 [10.0, 10.4] %; always the "
        "commonest class 10.0 %."
    )


def test_a_sparsity_that_lacks_a_seed_is_not_chosen() -> None:
    rows = rows_like({("a", 1): (0.8, 0.7), ("a", 2): (0.9, 0.9)})
    (arm,) = arms([row for row in rows if (row["round"], row["seed"]) != (2, 0)])
    assert arm.round == 1
