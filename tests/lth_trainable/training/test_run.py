from __future__ import annotations

import copy
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import WEIGHTS, Sealed, Store
from lth_trainable.store.trials import finished_trials, load_masks, load_trial
from lth_trainable.training.run import run_trial
from tests.support.command import ROOT

CNN: dict[str, Any] = {"model": "tests.plugins:tiny_cnn", "batch_size": 230}
SHORT: list[dict[str, Any]] = [
    {"target_sparsity_pct": 64, "epochs": 3, "rewind_epoch": 1},
    {"schedule": "iterative", "target_sparsity_pct": 80, "epochs": 6, "rewind_epoch": 1, **CNN},
]
OF_THE_SAME_KINDS: list[dict[str, Any]] = [  # each needs a fresh process, which imports torch and fastai first
    {"criterion": "random", "context": "global", "target_sparsity_pct": 40, "epochs": 2},
    {"control": "dense", "epochs": 3},
    {"schedule": "omp", "target_sparsity_pct": 70, "epochs": 3, **CNN},
    {"schedule": "agp", "target_sparsity_pct": 80, "epochs": 6, "optimizer": "sgd", "lr": 0.05},
    {"schedule": "one_shot", "target_sparsity_pct": 50, "epochs": 4, "reset_end": True},
]


def weights_of(store: Store, folder: Sealed, which: str) -> bytes:
    state = store.find(folder.manifest["states"][which])
    assert state is not None
    return store.content(state, WEIGHTS)


def result(spec: TrialSpec, store: Store, run: str = "r") -> dict[str, Any]:
    return run_trial(spec, store, run)


@pytest.mark.parametrize(
    "fields",
    [*SHORT, *(pytest.param(fields, marks=pytest.mark.slow) for fields in OF_THE_SAME_KINDS)],
    ids=map(json.dumps, [*SHORT, *OF_THE_SAME_KINDS]),
)
def test_a_trial_gives_the_same_bytes_after_other_trials_and_in_a_fresh_process(
    fields: dict[str, Any], store: Store
) -> None:
    first = result(TrialSpec(**fields), store, "a")
    result(TrialSpec(epochs=1, seed=9, **CNN), store, "between") if "model" not in fields else None
    torch.rand(7)
    second = result(TrialSpec(**fields), Store(f"{store.root}-second"))
    code = (
        "import json, sys; from lth_trainable import Store, TrialSpec, run_trial; "
        "print(json.dumps(run_trial(TrialSpec(**json.loads(sys.argv[1])), Store(sys.argv[2]))['sha256']))"
    )
    fresh = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, json.dumps(fields), f"{store.root}-fresh"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert first["sha256"] == second["sha256"] == json.loads(fresh.stdout)
    assert first["epochs_trained"] == second["epochs_trained"] > 0


def test_seeds_orders_and_specs_make_a_difference(store: Store) -> None:
    base = TrialSpec(control="dense", epochs=1)
    others = [TrialSpec(control="dense", epochs=1, **f) for f in ({"seed": 1}, {"order_seed": 1}, {"lr": 0.1})]
    hashes = [result(spec, store)["sha256"]["weights"] for spec in (base, *others)]
    assert len(set(hashes)) == 4


def test_the_record_is_complete(store: Store) -> None:
    spec = TrialSpec(target_sparsity_pct=64, epochs=3, rewind_epoch=1)
    record = result(spec, store)
    assert [(row["level"], row["epoch"]) for row in record["epochs"]] == [
        (0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2),
    ]  # fmt: skip
    assert record["epochs_trained"] == spec.epochs_alone() == 7
    assert [row["step"] for row in record["epochs"]] == [20, 40, 60, 40, 60, 40, 60]
    for row in record["epochs"]:
        assert 0 < row["train_loss"] < 3 and 0 < row["valid_loss"] < 3 and 0 <= row["valid_accuracy"] <= 1
        assert row["trained_by"] == spec.name and row["lr"] == pytest.approx(1.2e-3)
    kept = {level: sum(r["n_kept"] for r in record["layers"] if r["level"] == level) for level in (0, 1, 2)}
    assert kept == {0: 50200, 1: 30120, 2: 18072}
    measured = [100 * (50200 - kept[row["level"]]) / 50200 for row in record["epochs"]]
    assert [row["sparsity_pct"] for row in record["epochs"]] == measured
    assert record["result"]["sparsity_pct"] == 64.0 and record["data"]["n_test"] == 360
    last = [row for row in record["epochs"] if row["level"] == 2]
    assert record["result"]["early_stop_epoch"] == min(last, key=lambda row: row["valid_loss"])["epoch"]
    assert record["result"]["valid_loss"] == pytest.approx(last[-1]["valid_loss"])


def test_mean_training_loss_is_a_plain_mean(store: Store) -> None:
    """With a learning rate too small to move the weights, it is the loss of the initial network."""
    spec = TrialSpec(control="dense", epochs=1, lr=1e-30)
    record = result(spec, store)
    model = load_trial(f"{store.root}/r/trials/{spec.name}", "initial")
    from lth_trainable.data.datasets import load_dataset

    data = load_dataset("digits")
    loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(data.train.x)), torch.from_numpy(data.train.y))
    assert record["epochs"][0]["train_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_weights_masks_and_rewind_points_come_back(store: Store) -> None:
    spec = TrialSpec(target_sparsity_pct=64, epochs=3, rewind_epoch=1, **CNN)
    result(spec, store)
    path = f"{store.root}/r/trials/{spec.name}"
    (folder, record), *_ = finished_trials(store, "r")
    final = load(weights_of(store, folder, "final"))
    model = load_trial(path)
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, final[name]), name
    masks = load_masks(store, folder)
    assert sorted(masks) == [1, 2]
    for name, mask in masks[2].items():
        assert mask.dtype == np.bool_ and list(mask.shape) == record["shapes"][name]
        assert (final[name].numpy()[~mask] == 0).all()
        assert (masks[1][name] | ~mask).all()
    rewound = load_trial(path, "rewind")
    state = load(weights_of(store, folder, "rewind"))
    assert torch.equal(rewound.get_buffer("1.running_mean"), state["1.running_mean"])
    assert (rewound.get_parameter("0.weight").detach().numpy()[~masks[2]["0.weight"]] == 0).all()


def test_the_rewind_point_is_the_dense_network_of_that_epoch(store: Store) -> None:
    ticket = TrialSpec(target_sparsity_pct=40, epochs=3, rewind_epoch=2)
    tutorial = TrialSpec(schedule="iterative", epochs=9, start_pct=0.25, rewind_epoch=2)
    dense = TrialSpec(control="dense", epochs=2)
    for spec in (ticket, tutorial, dense):
        result(spec, store)
    folders = {folder.manifest["trial"]: folder for folder, _ in finished_trials(store, "r")}
    rewinds = [folders[spec.name].manifest["states"]["rewind"] for spec in (ticket, tutorial)]
    assert rewinds[0] == rewinds[1]
    assert folders[dense.name].manifest["states"]["final"] == rewinds[0]
    assert folders[dense.name].manifest["states"]["initial"] != rewinds[0]
    alone = Store(f"{store.root}-alone")
    result(dense, alone)
    [(folder, _)] = finished_trials(alone, "r")
    assert weights_of(alone, folder, "final") == weights_of(store, folders[ticket.name], "rewind")


def test_a_trial_has_its_record_and_masks_and_refers_to_its_weights(store: Store) -> None:
    spec = TrialSpec(target_sparsity_pct=64, epochs=2, rewind_epoch=1)
    record = result(spec, store)
    [(folder, _)] = finished_trials(store, "r")
    assert sorted(folder.manifest["files"]) == ["masks.safetensors", "record.json"]
    assert sorted(store.sizes(folder.path)) == ["manifest.json", "masks.safetensors", "record.json"]
    mark = record["fingerprint"]
    assert folder.manifest["states"] == {which: store.state(key, mark) for which, key in record["states"].items()}
    assert sorted(record["states"]) == ["final", "initial", "rewind"]
    assert hashlib.sha256(weights_of(store, folder, "final")).hexdigest() == record["sha256"]["weights"]


def test_a_supermask_is_measured_as_it_is_saved(store: Store) -> None:
    spec = TrialSpec(schedule="one_shot", target_sparsity_pct=50, epochs=4, reset_end=True)
    record = result(spec, store)
    model = load_trial(f"{store.root}/r/trials/{spec.name}")
    initial = load_trial(f"{store.root}/r/trials/{spec.name}", "initial")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), initial.parameters(), strict=True))
    from lth_trainable.data.datasets import load_dataset

    test = load_dataset("digits").test
    accuracy = (model(torch.from_numpy(test.x)).argmax(1) == torch.from_numpy(test.y)).float().mean().item()
    assert record["result"]["test_accuracy"] == pytest.approx(accuracy)
    assert record["result"]["best_valid_accuracy"] is None and record["result"]["early_stop_epoch"] is None


def test_a_network_whose_loss_on_the_test_split_only_is_not_finite_has_a_record(store: Store) -> None:
    spec = TrialSpec(control="dense", epochs=1, model="tests.support.bad_trials:infinite_on_one_image")
    record = result(spec, store)
    assert record["status"] == "done" and record["result"]["valid_loss"] is not None
    assert record["result"]["test_loss"] is None and record["result"]["test_accuracy"] is not None


def test_divergence_ends_the_trial_with_its_record(store: Store) -> None:
    spec = TrialSpec(control="dense", epochs=4, optimizer="sgd", lr=1e30)
    record = result(spec, store)
    assert record["status"] == "diverged" and "not finite at level 0, epoch 0" in record["reason"]
    assert record["epochs_trained"] == 1 and record["epochs"][0]["train_loss"] is None
    assert record["result"]["test_accuracy"] is None and record["result"]["sparsity_pct"] == 0
    assert [r["status"] for _, r in finished_trials(store, "r")] == ["diverged"]


def test_a_criterion_of_ones_own(store: Store) -> None:
    record = result(TrialSpec(criterion="tests.plugins:keep_outer", epochs=2, target_sparsity_pct=40), store)
    assert record["result"]["sparsity_pct"] == 40.0
    assert not any(math.isnan(row["valid_loss"]) for row in record["epochs"])


def test_load_trial_says_what_is_wrong(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished trial"):
        load_trial(tmp_path / "nothing")
    spec = TrialSpec(control="dense", epochs=1)
    result(spec, store)
    with pytest.raises(UserError, match="no rewind weights"):
        load_trial(f"{store.root}/r/trials/{spec.name}", "rewind")


def test_loading_a_trial_leaves_the_random_stream_alone(store: Store) -> None:
    spec = TrialSpec(control="dense", epochs=1)
    result(spec, store)
    before = copy.deepcopy(torch.get_rng_state())
    load_trial(f"{store.root}/r/trials/{spec.name}")
    assert torch.equal(before, torch.get_rng_state())
