from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.errors import UserError, check_sparsity
from lth_trainable.models.networks import MODELS
from lth_trainable.registry import lookup
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.spec.values import digest

GOLDEN = Path(__file__).parent / "golden" / "keys.json"

KNOWN: dict[str, dict[str, Any]] = {
    "digits-lenet_300_100-dense-seed0": {"control": "dense"},
    "digits-lenet_300_100-dense-e5-seed1": {"control": "dense", "epochs": 5, "seed": 1},
    "digits-lenet_300_100-imp-s87.04-r1-seed3": {"target_sparsity_pct": 87.04, "rewind_epoch": 1, "seed": 3},
    "digits-lenet_300_100-iterative-s80-r0-start0.25-seed0": {
        "schedule": "iterative", "start_pct": 0.25, "target_sparsity_pct": 80,
    },
    "digits-lenet_300_100-agp-s50-seed0": {"schedule": "agp", "target_sparsity_pct": 50},
    "digits-lenet_300_100-omp-s50-r0-sgd-lr0.1-seed0": {
        "schedule": "omp", "target_sparsity_pct": 50, "optimizer": "sgd", "lr": 0.1,
    },
    "digits-lenet_300_100-imp-s64-r500it-opt_fresh-seed0": {
        "target_sparsity_pct": 64, "rewind_epoch": "500it", "rewind_optimizer": "fresh",
    },
    "digits-lenet_300_100-imp-s64-r0-pout20-seed0": {"target_sparsity_pct": 64, "output_prune_rate_pct": 20},
    "digits-lenet_300_100-imp-s64-retrain_lr_rewinding-flip-lr_steps-warm0.1-seed0": {
        "target_sparsity_pct": 64, "retrain": "lr_rewinding", "augment": "flip", "lr_policy": "steps",
        "warmup_pct": 0.1,
    },
    "digits-lenet_300_100-dense-lr_steps-drops0.5.0.9-drop0.2-seed0": {
        "control": "dense", "lr_policy": "steps", "lr_drops": "0.5,0.9", "lr_drop_factor": 0.2,
    },
    "digits-lenet_300_100-dense-shift-lr_one_cycle-seed0": {
        "control": "dense", "lr_policy": "one_cycle", "augment": "shift",
    },
}  # fmt: skip
FIRST_VERSION = {
    "dataset", "split_seed", "batch_size", "model", "layers", "optimizer", "lr", "momentum", "beta2", "eps",
    "weight_decay", "precision", "epochs", "seed", "order_seed", "control", "target_sparsity_pct", "granularity",
    "context", "criterion", "schedule", "prune_rate_pct", "prune_steps", "start_pct", "end_pct", "retrain",
    "rewind_epoch", "reset_end",
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_names_are_readable(name: str) -> None:
    assert TrialSpec(**KNOWN[name]).name == name


@pytest.mark.parametrize("name", KNOWN)
def test_keys_of_known_specs_never_change(name: str) -> None:
    assert TrialSpec(**KNOWN[name]).key("0" * 64) == json.loads(GOLDEN.read_text())[name]


def test_later_fields_enter_the_key_only_off_their_no_op() -> None:
    assert (
        set(TrialSpec().canonical()) == FIRST_VERSION == {f.name for f in fields(TrialSpec) if "noop" not in f.metadata}
    )
    for field in (f for f in fields(TrialSpec) if "noop" in f.metadata):
        assert TrialSpec(**{field.name: field.metadata["noop"]}).key("d") == TrialSpec().key("d"), field.name
    assert set(TrialSpec(augment="flip", rewind_epoch="5it").canonical()) == FIRST_VERSION | {"augment", "rewind_step"}


@pytest.mark.parametrize(
    ("fields_", "same"),
    [({"rewind_epoch": "0it"}, {"rewind_epoch": 0}), ({"rewind_epoch": "1"}, {"rewind_epoch": 1}),
     ({"rewind_epoch": "5it"}, {"rewind_step": 5}), ({"rewind_optimizer": "restored"}, {}),
     ({"output_prune_rate_pct": 40}, {}), ({"warmup_pct": 0.1, "lr_drops": "0.5"}, {}),
     ({"lr_policy": "steps", "lr_drops": "0.5,0.75", "lr_drop_factor": 0.1}, {"lr_policy": "steps"}),
     ({"retrain": "fine_tuning", "rewind_epoch": "5it", "rewind_optimizer": "fresh"}, {"retrain": "fine_tuning"})],
)  # fmt: skip
def test_two_ways_to_say_it_are_one_trial(fields_: dict[str, Any], same: dict[str, Any]) -> None:
    assert TrialSpec(**fields_) == TrialSpec(**same)


def test_the_output_layer_has_its_own_rate_at_the_levels_of_the_target() -> None:
    spec = TrialSpec(target_sparsity_pct=64, output_prune_rate_pct=20)
    assert spec.level_sparsities == (Fraction(2, 5), Fraction(16, 25))
    assert spec.output_sparsities == (Fraction(1, 5), Fraction(9, 25))
    assert TrialSpec(target_sparsity_pct=64).output_sparsities == (None, None)


def test_the_spec_and_its_neighbours_import_no_torch() -> None:
    modules = "lth_trainable.spec.segments, lth_trainable.store.store, sweeps.experiments.expand"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_field_is_part_of_the_key_unless_it_is_dropped() -> None:
    base = TrialSpec(schedule="iterative", target_sparsity_pct=50)
    other: dict[str, Any] = {
        "dataset": "tests.plugins:nothing", "split_seed": 1, "batch_size": 61, "model": "resnet18", "layers": "linear",
        "optimizer": "sgd", "lr": 0.1, "momentum": 0.8, "beta2": 0.9, "eps": 1e-5, "weight_decay": 0.1, "epochs": 21,
        "seed": 1, "order_seed": 5, "control": "dense", "target_sparsity_pct": 51, "granularity": "row",
        "context": "global", "criterion": "random", "schedule": "one_shot", "prune_steps": 4, "start_pct": 0.3,
        "end_pct": 0.9, "retrain": "none", "rewind_epoch": 1, "reset_end": True, "augment": "flip",
        "lr_policy": "cosine", "validate_every": 100,
    }  # fmt: skip
    elsewhere = {"lr_policy": "steps"}, {"schedule": "imp"}
    acts_elsewhere: dict[str, tuple[dict[str, Any], Any]] = {
        "warmup_pct": (elsewhere[0], 0.1), "lr_drops": (elsewhere[0], "0.5"), "lr_drop_factor": (elsewhere[0], 0.2),
        "prune_rate_pct": (elsewhere[1], 20), "rewind_step": (elsewhere[1], 500),
        "rewind_optimizer": (elsewhere[1], "fresh"), "output_prune_rate_pct": (elsewhere[1], 20),
        "retrain_order": (elsewhere[1], "new"),
        "control_lr": ({"schedule": "imp", "control": "reinit"}, 0.1),
        "sign_flip_pct": ({"control": "sign_flip"}, 5),
        "fine_tuning_lr_fraction": ({"schedule": "imp", "retrain": "fine_tuning"}, 0.1),
    }  # fmt: skip
    untested = {f.name for f in fields(TrialSpec)} - set(other) - set(acts_elsewhere)
    assert untested == {"precision", "width_pct", "ticket", "image_size"}, "a new field needs a value here"
    # width_pct: tests/sweeps/experiments/test_baselines.py; ticket: tests/lth_trainable/tickets/test_import.py;
    # image_size: tests/lth_trainable/data/test_class_folders.py
    del other["dataset"]
    for name, (where, value) in acts_elsewhere.items():
        one, two = TrialSpec(**where), TrialSpec(**where, **{name: value})
        assert one.key("d") != two.key("d") and one.name != two.name, name
        assert TrialSpec(control="dense", **{name: value}).key("d") == TrialSpec(control="dense").key("d"), name
    keys = {replace(base, **{name: value}).key("d") for name, value in other.items()}
    names = {replace(base, **{name: value}).name for name, value in other.items()}
    assert len(keys | {base.key("d")}) == len(names | {base.name}) == len(other) + 1


def test_the_data_and_plugged_in_code_are_part_of_the_key() -> None:
    assert TrialSpec().key("a") != TrialSpec().key("b")
    plugged = TrialSpec(model="tests.plugins:tiny_cnn")
    assert list(plugged.code_digests()) == ["model"]
    assert plugged.name == "digits-tests.plugins.tiny_cnn-imp-s64-r0-seed0"


def test_a_plug_in_is_known_by_the_code_that_was_imported_whatever_becomes_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "edited_plug_in.py"
    file.write_text("from tests.plugins import tiny_cnn\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = TrialSpec(model="edited_plug_in:tiny_cnn")
    lookup("model", spec.model, MODELS)
    code = spec.code_digests()
    file.write_text("from tests.plugins import tiny_cnn  # edited\n")
    assert spec.code_digests() == code
    importlib.reload(sys.modules["edited_plug_in"])
    assert spec.code_digests() != code


def test_a_schedule_of_ones_own_is_a_gradual_one() -> None:
    spec = TrialSpec(schedule="tests.plugins:square_root", target_sparsity_pct=80)
    assert spec.family == "fit" and spec.retrain == "none" and "schedule" in spec.code_digests()
    assert spec.name == "digits-lenet_300_100-tests.plugins.square_root-s80-seed0"
    assert spec.prunes[-1].epoch == 15 and spec.level_sparsities[-1] == Fraction(4, 5)


def test_what_does_not_act_is_none_so_that_equal_trials_are_equal() -> None:
    agp = TrialSpec(schedule="agp", rewind_epoch=1, prune_rate_pct=20)
    assert agp == TrialSpec(schedule="agp") and agp.rewind_epoch is None and agp.prune_rate_pct is None
    dense = TrialSpec(control="dense", target_sparsity_pct=90, criterion="random")
    assert dense == TrialSpec(control="dense")
    assert TrialSpec(seed=3, order_seed=3) == TrialSpec(seed=3)


@pytest.mark.parametrize("fields_", KNOWN.values())
def test_canonical_form_gives_the_spec_back(fields_: dict[str, Any]) -> None:
    spec = TrialSpec(**fields_)
    assert spec_from_dict(json.loads(json.dumps(spec.canonical()))) == spec


def test_imp_levels_come_from_n_times_the_power_and_are_exact() -> None:
    spec = TrialSpec(target_sparsity_pct=87.04)
    assert spec.level_sparsities == tuple(1 - Fraction(3, 5) ** level for level in (1, 2, 3, 4))
    assert spec.epochs_alone() == 20 + 4 * 20
    assert TrialSpec(target_sparsity_pct=92.22, rewind_epoch=1).epochs_alone() == 20 + 5 * 19


def test_a_target_between_rungs_snaps_up_and_says_so() -> None:
    spec = TrialSpec(target_sparsity_pct=90)
    assert spec == TrialSpec(target_sparsity_pct=92.22) and spec.target_sparsity_pct == 92.22
    assert "next rung, 92.22 %" in spec.notes[0]
    assert not TrialSpec(target_sparsity_pct=92.22).notes


BAD: list[tuple[dict[str, Any], str]] = [
    ({"target_sparsity_pct": 0.5}, "did you mean 50?"),
    ({"target_sparsity_pct": -1}, "found -1; expected percent"),
    ({"target_sparsity_pct": 100}, "no weight would be left"),
    ({"target_sparsity_pct": 120}, "found 120"),
    ({"target_sparsity_pct": 0}, "dense network"),
    ({"target_sparsity_pct": "abc"}, "found 'abc'"),
    ({"target_sparsity_pct": float("nan")}, "found nan"),
    ({"target_sparsity_pct": True}, "found True"),
    ({"schedule": "iterativ"}, "did you mean iterative?"),
    ({"criterion": "large_finall"}, "did you mean large_final?"),
    ({"criterion": "magnitude"}, "did you mean large_final?"),
    ({"criterion": "L1-norm"}, "did you mean large_final?"),
    ({"model": "resnet50"}, "did you mean torchvision:resnet50?"),
    ({"dataset": "digit"}, "did you mean digits?"),
    ({"model": "lenet"}, "lenet_300_100"),
    ({"model": "no_such_module:f"}, "cannot import the module"),
    ({"model": ":f"}, "expected package.module:function"),
    ({"start_pct": 1.5}, "[0, 1)"),
    ({"prune_steps": 0}, "at least 1"),
    ({"model": "tests.plugins:no_such"}, "has no function 'no_such'"),
    ({"granularity": "weights"}, "did you mean weight?"),
    ({"context": "lokal"}, "did you mean local?"),
    ({"rewind_epoch": 21}, "up to the first prune"),
    ({"rewind_epoch": 20}, "no epoch would be left"),
    ({"rewind_epoch": -1}, "whole epoch number"),
    ({"rewind_epoch": 1.5}, "whole epoch number"),
    ({"schedule": "iterative", "start_pct": 0.25, "rewind_epoch": 6}, "(epoch 5)"),
    ({"schedule": "iterative", "start_pct": 1.0}, "[0, 1)"),
    ({"schedule": "iterative", "start_pct": -0.1}, "[0, 1)"),
    ({"schedule": "agp", "start_pct": 0.5, "end_pct": 0.4}, "end_pct"),
    ({"schedule": "iterative", "prune_steps": 30}, "no room for 30 pruning steps in 20 epochs"),
    ({"schedule": "one_shot", "epochs": 1}, "no room for 1 pruning step"),
    ({"schedule": "agp", "retrain": "tutorial"}, "retrain"),
    ({"epochs": 0}, "at least 1"),
    ({"batch_size": 0}, "at least 1"),
    ({"lr": 0}, "positive"),
    ({"lr": float("inf")}, "positive"),
    ({"momentum": 1.0}, "[0, 1)"),
    ({"seed": -1}, "at least 0"),
    ({"prune_rate_pct": 0.2}, "did you mean 20?"),
    ({"optimizer": "adamm"}, "did you mean adam?"),
    ({"augment": "flipp"}, "did you mean flip?"),
    ({"lr_policy": "cosin"}, "did you mean cosine?"),
    ({"warmup_pct": 1.0}, "[0, 1)"),
    ({"lr_drops": "0.9,0.5"}, "increasing fractions"),
    ({"lr_drop_factor": 1.0}, "between 0 and 1"),
    ({"rewind_epoch": "5its"}, '"500it"'),
    ({"rewind_epoch": "-5it"}, '"500it"'),
    ({"rewind_step": 0}, "at least 1"),
    ({"rewind_optimizer": "new"}, "restored"),
    ({"output_prune_rate_pct": 0.2}, "did you mean 20?"),
    ({"output_prune_rate_pct": 20, "context": "global"}, "context local"),
    ({"schedule": "one_shot", "rewind_epoch": "5it"}, "only imp and omp can rewind to an iteration"),
    ({"retrain": "lr_rewinding", "reset_end": True}, "no rewind weights"),
]


@pytest.mark.parametrize(("fields_", "message"), BAD, ids=[json.dumps(f) for f, _ in BAD])
def test_bad_values_get_one_clear_error(fields_: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        TrialSpec(**fields_)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sparsity_just_inside_the_bounds_is_fine() -> None:
    check_sparsity("sparsity", 1)
    check_sparsity("sparsity", 99.99)


def test_a_key_is_the_digest_of_spec_data_and_code_whichever_seed_came_first() -> None:
    """Trials that differ only in the seed have most of the hashed text in common; it is written once."""
    several: tuple[dict[str, Any], ...] = (
        {},
        {"epochs": 3, "rewind_epoch": "30it"},
        {"control": "dense", "model": "tests.plugins:tiny_cnn"},
    )
    for own in several:
        for seed in (5, 0, 12):
            spec = TrialSpec(**own, seed=seed)
            assert spec.key("d") == digest({"spec": spec.canonical(), "data": "d", "code": spec.code_digests()})


def test_minus_zero_is_zero_in_whichever_order_the_two_are_made() -> None:
    minus, zero = TrialSpec(weight_decay=-0.0, seed=11, epochs=7), TrialSpec(weight_decay=0.0, seed=11, epochs=7)
    assert minus == zero
    assert str(minus.weight_decay) == str(zero.weight_decay) == "0.0"
    assert minus.key("d") == zero.key("d")
