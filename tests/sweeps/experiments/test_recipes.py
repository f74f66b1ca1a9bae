"""The built-in recipes agree with their sources; `sweeps.recipe` shows and compares recipes."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastai.optimizer
import numpy as np
import pytest
from PIL import Image

from lth_trainable.data.cache import CACHE_VARIABLE
from lth_trainable.errors import UserError
from lth_trainable.pruning.controls import CONTROLS
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.execution import Execution
from lth_trainable.training.run import run_trial
from sweeps.cli.options import parse
from sweeps.experiments.expand import expand
from sweeps.experiments.recipes import RECIPES, Sweep, find_recipe
from sweeps.planning.plan import Facts, make_plan
from sweeps.recipe import main

LENET = {"1.weight": 300 * 784, "3.weight": 100 * 300, "5.weight": 10 * 100}


def tickets(name: str) -> list[TrialSpec]:
    return [trial for trial in expand(find_recipe(name)).trials if trial.control == "none" and trial.seed == 0]


def distinct_epochs(name: str, n_train: int) -> int:
    trials = expand(find_recipe(name)).trials
    facts = {(spec.dataset, spec.split_seed): Facts(digest="d", n_train=n_train) for spec in trials}
    return make_plan(trials, facts).epochs_distinct


def mine() -> Sweep:
    """A custom recipe."""
    return replace(find_recipe("digits"), name="mine", seeds=(0,), selects=lambda point, axes: True)


def no_sweep() -> str:
    return "digits"


def broken() -> Sweep:
    raise ZeroDivisionError("by zero")


# -- pets_tutorial ---------------------------------------------------------------------------------------------------


def test_pets_tutorial_is_the_tutorials_fit() -> None:
    adam = {n: p.default for n, p in inspect.signature(fastai.optimizer.Adam).parameters.items()}
    assert adam["decouple_wd"]
    for trial in expand(find_recipe("pets_tutorial")).trials:
        assert (trial.momentum, trial.beta2, trial.eps, trial.weight_decay) == (
            adam["mom"], adam["sqr_mom"], adam["eps"], adam["wd"],
        )  # fmt: skip
        assert (trial.dataset, trial.model, trial.batch_size, trial.lr) == ("pets", "resnet18", 64, 1e-3)
        assert (trial.lr_policy, trial.augment) == ("constant", "none")
    for ticket in tickets("pets_tutorial"):
        assert ticket.retrain == "tutorial"
        if ticket.schedule == "one_shot":
            assert [prune.epoch for prune in ticket.prunes] == [5]
            continue
        assert [prune.epoch for prune in ticket.prunes] == [5, 10, 15]
        assert [float(s) for s in ticket.level_sparsities] == pytest.approx(
            [ticket.target_sparsity_pct / 100 * step / 3 for step in (1, 2, 3)]  # type: ignore[operator]
        )


def test_pets_tutorial_has_every_arm_of_its_question() -> None:
    sweep = find_recipe("pets_tutorial")
    kinds = {(t.target_sparsity_pct, t.schedule, t.rewind_epoch, t.reset_end) for t in tickets("pets_tutorial")}
    assert kinds == {
        (s, schedule, k, end)
        for s in (50, 80, 90, 95) for schedule in ("iterative", "one_shot")
        for k, end in ((0, False), (1, False), (0, True))
    }  # fmt: skip
    expanded = expand(sweep)
    assert {t.epochs for t in expanded.trials if t.is_dense} == {5, 20} and sweep.seeds == tuple(range(36))
    assert (sweep.endpoint, sweep.margin_pp, sweep.alpha) == ("test_accuracy", 1.0, 0.025)
    assert (len(expanded.trials), expanded.epochs) == (4284, 85_140)
    assert distinct_epochs("pets_tutorial", 5912) == 36 * 610
    with_resets = {(t.schedule, t.rewind_epoch) for t in expanded.trials if t.control == "dense_restarts"}
    assert with_resets == {(schedule, k) for schedule in ("iterative", "one_shot") for k in (0, 1)}


def test_pets_tutorial_has_all_controls_of_tickets_that_are_pruned_in_steps() -> None:
    expanded = expand(find_recipe("pets_tutorial"))
    controls = [t for t in expanded.trials if expanded.roles[t.name] == "control" and not t.is_dense]
    assert {t.schedule for t in controls} == {"iterative"} and {t.control for t in controls} == set(CONTROLS)
    assert expanded.notes[0].startswith("12 of 24 tickets of a seed have controls, as the recipe says (in_steps)")
    _, sweep = parse(["pets_tutorial", "--controls", "layerwise_shuffle"])
    named = [t for t in expand(sweep).trials if t.control == "layerwise_shuffle"]
    assert {t.schedule for t in named} == {"iterative", "one_shot"}, "asked for, so every ticket has it"


@pytest.mark.parametrize(
    ("arguments", "supermasks"),
    [([], {0}), (["--rewind-epoch", "1"], {1}), (["--rewind-epoch", "1", "0"], {1}), (["--reset-end", "False"], set())],
)
def test_supermasks_follow_the_axes_of_the_command_line(arguments: list[str], supermasks: set[int]) -> None:
    _, sweep = parse(["pets_tutorial", "--sparsity", "50", *arguments])
    assert {t.rewind_epoch for t in expand(sweep).trials if t.reset_end} == supermasks


def test_a_selection_that_leaves_nothing_is_refused() -> None:
    def none_of_them(point: Any, axes: Any) -> bool:
        return False

    with pytest.raises(UserError, match="none_of_them leaves no ticket"):
        expand(replace(find_recipe("digits"), selects=none_of_them))


def test_pets_tutorials_supermask_runs_on_images_of_its_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    images = tmp_path / "oxford-iiit-pet" / "images"
    images.mkdir(parents=True)
    for index in range(30):
        pixels = np.random.default_rng(index).integers(0, 256, (80, 70, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{'Cat' if index % 3 else 'dog'}_{index}.jpg")
    spec = replace(next(t for t in tickets("pets_tutorial") if t.reset_end and t.schedule == "iterative"), epochs=4)
    record = run_trial(spec, store, execution=Execution(data_root=tmp_path))
    assert record["status"] == "done" and record["result"]["sparsity_pct"] == 50.0
    assert record["result"]["n_weights"] == 11_166_912, "what the tutorial prunes"
    assert record["layers"][-20]["n_kept"] == 9_408 - 4_704 and len(record["epochs"]) == 4


# -- mnist_lenet -----------------------------------------------------------------------------------------------------


def test_mnist_lenet_is_the_papers_ladder() -> None:
    found = sorted(tickets("mnist_lenet"), key=lambda t: t.n_levels)
    assert [t.n_levels for t in found] == list(range(1, 21))
    remaining = []
    for ticket in (found[level - 1] for level in (3, 7, 9, 15, 18, 20)):
        hidden, output = 1 - ticket.level_sparsities[-1], 1 - (ticket.output_sparsities[-1] or 0)
        kept = [n * (output if name == "5.weight" else hidden) for name, n in LENET.items()]
        remaining.append(round(float(100 * sum(kept) / sum(LENET.values())), 1))
    assert sum(LENET.values()) == 266_200 and remaining == [51.3, 21.1, 13.5, 3.6, 1.9, 1.2]


def test_mnist_lenet_has_the_papers_settings() -> None:
    sweep = find_recipe("mnist_lenet")
    for trial in expand(sweep).trials:
        assert (trial.lr, trial.momentum, trial.beta2, trial.eps, trial.weight_decay) == (1.2e-3, 0.9, 0.999, 1e-8, 0)
        assert (trial.batch_size, trial.epochs, trial.model) == (60, 55, "lenet_300_100")
        assert trial.validate_every == 100
        assert 50_000 <= trial.epochs * Facts(digest="d", n_train=55_000).steps_of(trial) < 50_500
        assert trial.is_dense or (trial.rewind_epoch, trial.context, trial.retrain) == (0, "local", "weight_rewinding")
    expanded = expand(sweep)
    assert expanded.notes == () and sweep.seeds == tuple(range(10))
    assert (sweep.endpoint, sweep.margin_pp) == ("early_stop_test_accuracy", 0.2)
    assert (len(expanded.trials), expanded.epochs) == (610, 380_050)
    assert distinct_epochs("mnist_lenet", 55_000) == 33_550, "55 dense, 20 levels of each arm, ten seeds"
    assert Counter(t.control for t in expanded.trials if not t.is_dense) == dict.fromkeys(
        ("none", "reinit", "random_sparse"), 200
    )


# -- supermasks ------------------------------------------------------------------------------------------------------


def test_the_supermask_recipes_have_the_papers_networks() -> None:
    mnist, cifar10 = (expand(find_recipe(f"{data}_supermask")) for data in ("mnist", "cifar10"))
    assert mnist.notes == cifar10.notes == ()
    assert {(t.model, t.epochs, t.lr) for t in cifar10.trials} == {
        ("conv_2", 27, 2e-4), ("conv_4", 34, 3e-4), ("conv_6", 40, 3e-4)
    }  # fmt: skip
    assert Counter(t.model for t in cifar10.trials if t.is_dense) == {"conv_2": 5, "conv_4": 5, "conv_6": 5}
    assert distinct_epochs("mnist_supermask", 55_000) == 5 * 55 * (1 + 10 * 5)
    assert distinct_epochs("cifar10_supermask", 45_000) == 5 * 3 * (27 + 34 + 40)


def test_a_network_keeps_its_own_setting_unless_the_command_line_has_another() -> None:
    _, sweep = parse(["cifar10_supermask", "--model", "conv_4"])
    assert {(t.epochs, t.lr) for t in expand(sweep).trials} == {(34, 3e-4)}
    _, sweep = parse(["cifar10_supermask", "--epochs", "2"])
    assert {(t.model, t.epochs, t.lr) for t in expand(sweep).trials} == {
        ("conv_2", 2, 2e-4), ("conv_4", 2, 3e-4), ("conv_6", 2, 3e-4)
    }  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_docstring_gives_size_and_cost(name: str) -> None:
    text = " ".join((RECIPES[name].__doc__ or "").split())
    expanded = expand(find_recipe(name))
    resets = "dense trials with resets"
    words = {"ticket": "tickets", "control": "controls", "baseline": resets, "dense": "dense trials"}
    counts = Counter(expanded.roles.values())
    parts = [f"{counts[role]:,} {word}" for role, word in words.items() if counts[role]]
    assert f"{', '.join(parts[:-1])} and {parts[-1]}, {expanded.epochs:,} epochs" in text
    assert "two cores" in text


# -- python -m sweeps.recipe -----------------------------------------------------------------------------------------


def test_a_plugged_in_recipe_is_a_recipe() -> None:
    assert find_recipe(f"{__name__}:mine").name == "mine"
    assert parse([f"{__name__}:mine", "--seeds", "2"])[1].seeds == (0, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "did you mean digits?"),
        (f"{__name__}:no_sweep", "expected a function that returns a Sweep; it returns str"),
        (f"{__name__}:broken", "cannot be made: ZeroDivisionError: by zero"),
        (f"{__name__}:nowhere", "has no function 'nowhere'"),
    ],
)
def test_what_is_no_recipe_is_one_line_and_exit_2(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "digits", name]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def differing(a: str, b: str, capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], tuple[Any, Any]]:
    assert main(["diff", a, b, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["a"], content["b"]) == (a, b)
    return {(row["of"], row["field"]): (row["a"], row["b"]) for row in content["differs"]}


def test_diff_lists_fields_of_sweep_and_trials_with_defaults_resolved(capsys: pytest.CaptureFixture[str]) -> None:
    found = differing("digits", "pets_tutorial", capsys)
    assert found["sweep", "base.lr"] == (None, 1e-3) and found["tickets", "lr"] == (1.2e-3, 1e-3)
    assert found["tickets", "schedule"] == ("imp", ["iterative", "one_shot"])
    assert found["dense", "epochs"] == (20, [5, 20])
    assert found["tickets", "start_pct"] == (None, 0.25) and found["tickets", "end_pct"] == (None, 1.0)
    assert found["sweep", "axes.reset_end"] == (None, [False, True])
    assert found["sweep", "baselines"] == (["dense"], ["dense", "dense_to_first_prune", "dense_restarts"])
    assert found["sweep", "margin_pp"] == (2.0, 1.0) and found["tickets", "trials"] == (48, 864)
    assert ("sweep", "endpoint") not in found and ("tickets", "optimizer") not in found
    assert differing("digits", "digits", capsys) == {}


def test_diff_names_functions_of_ones_own_by_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{__name__}:mine"
    found = differing("digits", name, capsys)
    assert set(found) == {
        ("sweep", "name"), ("sweep", "seeds"), ("sweep", "selects"), ("tickets", "trials"), ("dense", "trials"),
        ("controls", "trials"), ("tickets", "epochs asked for"), ("dense", "epochs asked for"),
        ("controls", "epochs asked for"),
    }  # fmt: skip
    assert found["sweep", "selects"][1].startswith(f"{__name__}:mine.<locals>.<lambda> in line ")


def test_the_table_of_diff_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "digits", "digits"]) == 0
    assert capsys.readouterr().out == "digits and digits do not differ\n"
    assert main(["diff", "digits_tutorial", "pets_tutorial"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["of", "field", "digits_tutorial", "pets_tutorial"] in lines
    assert ["tickets", "model", "lenet_300_100", "resnet18"] in lines
    assert ["sweep", "base.weight_decay", "–", "0.01"] in lines
    assert main(["show", "mnist_lenet"]) == 0
    out = capsys.readouterr().out
    assert "arXiv 1803.03635" in out and "output_prune_rate_pct" in out


def test_show_as_json_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "digits", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    values = {(row["of"], row["field"]): row["value"] for row in content["fields"]}
    assert content["recipe"] == "digits" and "Source:" in content["about"]
    assert values["sweep", "seeds"] == list(range(8)) and values["sweep", "axes.rewind_epoch"] == [0, 1]
    assert values["tickets", "prune_rate_pct"] == 40.0 and values["dense", "prune_rate_pct"] is None
