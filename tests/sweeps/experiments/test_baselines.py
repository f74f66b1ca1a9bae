"""What is asked for by name beside the tickets: controls, baselines, and the width of a small dense network."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from analysis.tables.roles import role_of
from analysis.tables.run_plan import Rule
from analysis.verdicts.answer import answer_sentence
from analysis.verdicts.baselines import METHODS
from analysis.verdicts.claims import verdicts
from analysis.verdicts.outlook import settled
from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.models.networks import _narrow_resnet18, build
from lth_trainable.pruning.controls import CONTROLS
from lth_trainable.pruning.layers import prunable_layers
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import PLAN, Store
from lth_trainable.store.trials import load_masks, load_trial
from lth_trainable.training.run import run_trial
from sweeps.cli.options import parse
from sweeps.experiments.baselines import BASELINES
from sweeps.experiments.expand import Trials, expand
from sweeps.experiments.recipes import Sweep, find_recipe
from sweeps.experiments.small_dense import STEPS, nearest_width, weights_kept
from sweeps.planning.plan import make_plan
from sweeps.recipe import rows_of
from sweeps.runs.ledger import Ledger
from tests.support.plans import FACTS
from tests.support.records import trial_rows

OF_TICKETS = [name for name, control in CONTROLS.items() if control.of_tickets]


def sweep(**changes: Any) -> Sweep:
    return replace(find_recipe("digits"), **{"seeds": (0, 1), "controls": (), "if_possible": (), **changes})


def trials_of(expanded: Trials, role: str) -> list[TrialSpec]:
    return [spec for spec in expanded.trials if expanded.roles[spec.name] == role]


def here(ticket: TrialSpec, data_root: Path | None) -> TrialSpec:
    """A baseline of one's own."""
    return replace(ticket, control="dense", lr=0.1)


# -- by name ---------------------------------------------------------------------------------------------------------


def test_all_of_them() -> None:
    expanded = expand(sweep(controls=("all",), baselines=("all",)))
    assert Counter(expanded.roles.values()) == {
        "ticket": 2 * 6, "control": 2 * (6 * 7 + 1), "baseline": 2 * (6 + 3 + 3 + 3), "dense": 2 * (1 + 6),
    }  # fmt: skip
    assert len(expanded.trials) == len(expanded.roles) == len(set(expanded.trials))
    tickets = {spec.name for spec in trials_of(expanded, "ticket")}
    assert {spec.name for spec in expand(sweep()).trials} <= set(expanded.roles)
    for spec in expanded.trials:
        branch = expanded.roles[spec.name] == "control" and not spec.is_dense
        wanted = replace(spec, control="none").name if branch else None
        assert spec.parent == wanted and (wanted is None or wanted in tickets)
    controls = Counter(spec.control for spec in trials_of(expanded, "control"))
    assert controls == {**dict.fromkeys(OF_TICKETS, 12), "dense": 2}, "one dense network more of each seed"
    kinds = Counter((s.schedule, s.retrain, s.width_pct is None) for s in trials_of(expanded, "baseline"))
    assert kinds == {
        ("omp", "weight_rewinding", True): 12, ("imp", "lr_rewinding", True): 6, ("imp", "fine_tuning", True): 6,
        (None, None, False): 6,
    }  # fmt: skip
    budgets = {spec.epochs_alone() for spec in trials_of(expanded, "ticket")}
    assert {spec.epochs for spec in trials_of(expanded, "dense")} == {20} | budgets
    assert [spec.seed for spec in expanded.trials] == sorted(spec.seed for spec in expanded.trials)


def test_the_dense_network_in_another_order_is_no_baseline() -> None:
    """From the same initialisation, in an order that no other trial has; if a ticket has it, it is that one's dense."""
    expanded = expand(sweep(controls=("dense_again",)))
    again = trials_of(expanded, "control")
    assert [(spec.seed, spec.order_seed) for spec in again] == [(0, 1_000_000), (1, 1_000_001)]
    assert {replace(spec, order_seed=None) for spec in again} == set(trials_of(expanded, "dense"))
    taken = expand(sweep(controls=("dense_again",), axes={"target_sparsity_pct": (64.0,), "order_seed": (1_000_000,)}))
    assert {spec.order_seed for spec in trials_of(taken, "dense")} == {1_000_000}
    assert {spec.order_seed for spec in trials_of(taken, "control")} == {2_000_000}


def test_names_give_what_they_name_and_the_dense_baseline_always() -> None:
    expanded = expand(sweep(controls=("reinit",), baselines=("omp", f"{__name__}:here")))
    assert {spec.control for spec in trials_of(expanded, "control")} == {"reinit"}
    assert {spec.schedule for spec in trials_of(expanded, "baseline")} == {"omp"}
    assert {(spec.lr, spec.epochs) for spec in trials_of(expanded, "dense")} == {(1.2e-3, 20), (0.1, 20)}
    assert expanded.notes == () and set(expand(sweep(controls=("none",), baselines=("none",))).trials) == set(
        expand(sweep()).trials
    )


def test_a_ticket_of_the_axes_is_no_baseline() -> None:
    axes = {"target_sparsity_pct": (64.0,), "retrain": ("weight_rewinding", "lr_rewinding")}
    expanded = expand(sweep(axes=axes, baselines=("lr_rewinding", "fine_tuning")))
    assert {spec.retrain for spec in trials_of(expanded, "ticket")} == {"weight_rewinding", "lr_rewinding"}
    assert {spec.retrain for spec in trials_of(expanded, "baseline")} == {"fine_tuning"}


def test_methods_of_one_comparison_see_the_data_in_one_order() -> None:
    """An LR-rewound ticket alone has new orders; beside a weight-rewound one it repeats that which found the mask."""
    baselines = ("omp", "lr_rewinding", "fine_tuning")
    both = {"target_sparsity_pct": (64.0,), "retrain": ("weight_rewinding", "lr_rewinding")}
    alone = {**both, "retrain": ("lr_rewinding",)}
    for axes, is_new in ((both, False), (alone, True), ({**both, "retrain_order": ("new",)}, True)):
        expanded = expand(sweep(axes=axes, baselines=baselines))
        assert {spec.order_is_new for spec in expanded.trials if not spec.is_dense} == {is_new}
    assert any("order that found its mask" in note for note in expand(sweep(axes=both)).notes)
    within_a_fit = expand(sweep(base={"schedule": "agp"}, axes={"target_sparsity_pct": (80.0,)}, baselines=baselines))
    assert {spec.order_is_new for spec in trials_of(within_a_fit, "baseline")} == {True}, "there the order runs on"


def test_settings_of_controls_are_axes_of_controls_only() -> None:
    """Each control has a trial for each combination of the settings that act in it; tickets are not multiplied."""
    axes = {"target_sparsity_pct": (64.0,), "sign_flip_pct": (1.0, 5.0), "control_lr": (1.2e-3, 0.01)}
    expanded = expand(sweep(base={"lr": 1.2e-3}, axes=axes, controls=("sign_flip", "reinit")))
    assert len(trials_of(expanded, "ticket")) == 2
    found = Counter((s.control, s.sign_flip_pct, s.control_lr) for s in trials_of(expanded, "control"))
    flips = dict.fromkeys([("sign_flip", pct, lr) for pct in (1.0, 5.0) for lr in (None, 0.01)], 2)
    assert found == flips | {("reinit", None, None): 2, ("reinit", None, 0.01): 2}
    assert {spec.parent for spec in trials_of(expanded, "control")} == {s.name for s in trials_of(expanded, "ticket")}
    assert any("sign_flip_pct has no effect" in note for note in expand(sweep(axes=axes)).notes)


def test_wanda_ranks_within_output_rows_unless_the_sweep_says_otherwise() -> None:
    axes = {"target_sparsity_pct": (64.0,), "criterion": ("wanda", "large_final")}
    found = {(spec.criterion, spec.context) for spec in trials_of(expand(sweep(axes=axes)), "ticket")}
    assert found == {("wanda", "output_row"), ("large_final", "local")}
    assert {s.context for s in trials_of(expand(sweep(axes=axes, base={"context": "local"})), "ticket")} == {"local"}
    assert TrialSpec(criterion="wanda").context == "local", "the keys of stored trials stay"


@pytest.mark.parametrize(
    ("policy", "fraction"),
    [("constant", None), ("warmup", None), ("steps", None), ("cosine", 0.01), ("one_cycle", 0.01)],
)
def test_fine_tuning_has_a_rate_that_it_can_learn_at(policy: str, fraction: float | None) -> None:
    """The last plateau of the policy; where there is none, a hundredth of the base rate, and a note says so."""
    axes = {"target_sparsity_pct": (64.0,)}
    expanded = expand(sweep(base={"lr_policy": policy}, axes=axes, baselines=("fine_tuning",)))
    assert {spec.fine_tuning_lr_fraction for spec in trials_of(expanded, "baseline")} == {fraction}
    assert any("0.01 of the learning rate" in note for note in expanded.notes) is (fraction is not None)
    old = TrialSpec(retrain="fine_tuning", target_sparsity_pct=64, lr_policy=policy)
    assert bool(old.notes) is (fraction is not None), "such a trial of 0.4.0 is what it was, with a warning"
    assert "fine_tuning_lr_fraction" not in old.canonical()


def test_what_only_some_tickets_have_is_made_for_those_and_told() -> None:
    axes = {"target_sparsity_pct": (64.0,), "retrain": ("weight_rewinding", "lr_rewinding")}
    expanded = expand(sweep(axes=axes, controls=("random_mask", "reinit")))
    assert Counter(spec.control for spec in trials_of(expanded, "control")) == {"random_mask": 2, "reinit": 4}
    assert len(expanded.notes) == 2 and "random_mask: 2 of 4 tickets do not have it" in expanded.notes[1]
    assert "choose reinit or random_sparse" in expanded.notes[1]
    [_, note] = expand(sweep(axes=axes, controls=("all",))).notes
    some = "random_mask for 2 only, layerwise_shuffle for 2 only"
    signs = ", ".join(f"{name} for 2 only" for name in ("sign_flip", "new_magnitudes", "constant_magnitude"))
    assert note == f"controls all, of 4 tickets: {some}, sign_shuffle for none, {signs}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controls": ("shuffle",)}, "did you mean"),
        ({"controls": ("tests.plugins:tiny_cnn",)}, "expected one of"),
        ({"baselines": ("large_dense",)}, "did you mean small_dense"),
        ({"controls": ("all", "reinit")}, "all alone"),
        ({"baselines": ("none", "omp")}, "none alone"),
        ({"controls": ("sign_shuffle",)}, "no ticket of this sweep can have it; .* for a ticket that is trained"),
        (
            {"base": {"model": "tests.plugins:tiny_cnn"}, "baselines": ("small_dense",)},
            "has no variable width; expected a builder",
        ),
    ],
)
def test_names_that_give_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        expand(sweep(**changes))


def test_tickets_within_a_fit_and_supermasks() -> None:
    base = {"schedule": "iterative", "start_pct": 0.25}
    axes = {"target_sparsity_pct": (80.0,), "rewind_epoch": (1,), "reset_end": (False, True)}
    expanded = expand(sweep(base=base, axes=axes, controls=("all",), baselines=("all",), seeds=(0,)))
    found = {(spec.control, spec.reset_end) for spec in trials_of(expanded, "control")}
    of_supermasks = [name for name, control in CONTROLS.items() if control.of_supermasks]
    assert found == {(name, False) for name in (*OF_TICKETS, "dense")} | {(name, True) for name in of_supermasks}
    baselines = {(s.control, s.schedule, s.retrain, s.rewind_epoch) for s in trials_of(expanded, "baseline")}
    assert baselines == {
        ("dense_restarts", "iterative", "tutorial", 1), ("none", "omp", "weight_rewinding", 1),
        ("none", "omp", "lr_rewinding", None), ("none", "omp", "fine_tuning", None), ("dense", None, None, None),
    }  # fmt: skip
    assert {spec.epochs for spec in trials_of(expanded, "dense")} == {20, 5}
    restarts = next(spec for spec in expanded.trials if spec.control == "dense_restarts")
    assert role_of(restarts) == "baseline" and restarts.parent in {s.name for s in trials_of(expanded, "ticket")}


def test_a_gradual_ticket_has_one_shot_baselines_rewound_to_0() -> None:
    expanded = expand(sweep(base={"schedule": "agp"}, axes={"target_sparsity_pct": (80.0,)}, baselines=("omp",)))
    assert {(s.schedule, s.rewind_epoch) for s in trials_of(expanded, "baseline")} == {("omp", 0)}


def test_dense_stretched_of_a_rewind_to_an_iteration_has_the_epochs_that_the_ticket_records(store: Store) -> None:
    ticket = TrialSpec(epochs=3, target_sparsity_pct=64, rewind_epoch="30it")  # type: ignore[arg-type]
    record = run_trial(ticket, store)
    assert BASELINES["dense_stretched"](ticket, None).epochs == record["result"]["epochs_total"] == 3 + 2 * 2


def test_dense_stretched_has_the_learning_rates_course_over_the_whole_budget() -> None:
    expanded = expand(sweep(base={"lr_policy": "cosine"}, baselines=("dense_stretched",), seeds=(0,)))
    for ticket in trials_of(expanded, "ticket"):
        stretched = next(s for s in expanded.trials if s.is_dense and s.epochs == ticket.epochs_alone())
        assert stretched.lr_curve(20).total_steps == 20 * ticket.epochs_alone()


def test_the_command_line_overrides_the_recipe() -> None:
    assert parse(["digits_tutorial"])[1].baselines == ("dense", "dense_to_first_prune")
    _, found = parse(["digits_tutorial", "--controls", "reinit", "random_mask", "--baselines", "omp"])
    assert (found.controls, found.baselines) == (("reinit", "random_mask"), ("omp",))
    assert parse(["digits", "--controls", "none"])[1].controls == ("none",)
    with pytest.raises(UserError, match="--controls"):
        parse(["digits", "--controls"])


@pytest.mark.parametrize("flags", [["--schedule", "dsd"], ["--reset-end", "True"]], ids=["dsd", "supermasks"])
def test_the_recipes_own_control_that_fits_no_ticket_is_a_note_and_the_users_an_error(flags: list[str]) -> None:
    expanded = expand(parse(["digits", *flags])[1])
    assert not trials_of(expanded, "control") and trials_of(expanded, "ticket")
    (note,) = [note for note in expanded.notes if "reinit" in note]
    assert note.startswith("controls: reinit of the recipe is left out, no ticket can have it") and "\n" not in note
    with pytest.raises(UserError, match="controls reinit: no ticket of this sweep can have it"):
        expand(parse(["digits", *flags, "--controls", "reinit"])[1])
    assert not [note for note in expand(parse(["digits", *flags, "--controls", "none"])[1]).notes if "reinit" in note]


def test_the_recipes_own_control_is_of_the_tickets_that_can_have_it() -> None:
    expanded = expand(parse(["digits", "--seeds", "1", "--schedule", "imp", "dsd"])[1])
    assert {spec.schedule for spec in trials_of(expanded, "control")} == {"imp"}
    assert any(note.startswith("reinit: 6 of 12 tickets do not have it") for note in expanded.notes)


def test_a_baseline_of_a_recipe_that_fits_no_ticket_is_a_note_too() -> None:
    own = sweep(baselines=("dense", "small_dense"), base={"model": "tests.plugins:tiny_cnn"}, seeds=(0,))
    with pytest.raises(UserError, match="baselines small_dense: no ticket"):
        expand(own)
    notes = expand(replace(own, if_possible=("baselines",))).notes
    assert any(note.startswith("baselines: small_dense of the recipe is left out") for note in notes)


def test_the_command_line_names_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--controls" in out and "--baselines" in out and "--width-pct" not in out
    assert all(name in out for name in (*CONTROLS, "dense_again", *BASELINES))


def test_a_recipe_is_shown_with_its_controls_and_baselines() -> None:
    rows = rows_of(sweep(controls=("reinit",), baselines=("omp",)))
    assert rows["sweep", "controls"] == ["reinit"] and rows["sweep", "baselines"] == ["omp"]
    assert (rows["tickets", "trials"], rows["controls", "trials"], rows["baselines", "trials"]) == (12, 12, 12)
    assert rows["controls", "epochs asked for"] == rows["tickets", "epochs asked for"] + 6  # k = 1: one epoch each more
    assert ("controls", "trials") not in rows_of(sweep())


# -- in the plan of a run --------------------------------------------------------------------------------------------


def entries(store: Store) -> dict[str, tuple[str, str | None]]:
    found = json.loads(store.read(f"r/{PLAN}"))["trials"]
    return {entry["name"]: (entry["role"], entry["parent"]) for entry in found}


def write(store: Store, found: Sweep, roles: bool = True) -> Trials:
    expanded = expand(found)
    more = {"roles": expanded.roles} if roles else {}
    Ledger(store=store, run="r", plan=make_plan(expanded.trials, FACTS), facts=FACTS, **more).write_plan(found, ["it"])
    return expanded


def test_the_plan_of_a_run_says_what_each_trial_is_and_whose(store: Store) -> None:
    expanded = write(store, sweep(controls=("all",), baselines=("all",)))
    assert entries(store) == {spec.name: (expanded.roles[spec.name], spec.parent) for spec in expanded.trials}


def test_a_ticket_stays_one_where_another_command_takes_it_as_a_baseline(store: Store) -> None:
    axes = {"target_sparsity_pct": (64.0,), "rewind_epoch": (0,)}
    name = "digits-lenet_300_100-imp-s64-retrain_lr_rewinding-order_same-seed0"
    write(store, sweep(axes=axes, baselines=("lr_rewinding",)))
    assert entries(store)[name] == ("baseline", None)
    write(store, sweep(axes={**axes, "retrain": ("lr_rewinding",), "retrain_order": ("same",)}))
    assert entries(store)[name] == ("ticket", None)
    write(store, sweep(axes=axes, baselines=("lr_rewinding",)))
    assert entries(store)[name] == ("ticket", None)


def test_comparisons_with_the_dense_baseline_are_what_they_were() -> None:
    """A control or a small dense network does not count as a ticket, nor as the dense baseline of its seed."""
    plain, more = (expand(sweep(seeds=(0, 1, 2, 3, 4), **asked)) for asked in ({}, {"controls": ("all",)}))
    small = expand(sweep(seeds=(0, 1, 2, 3, 4), controls=("all",), baselines=("small_dense",)))

    def accuracy(spec: TrialSpec) -> float:
        wrong = spec.control not in ("none", "dense") or spec.width_pct is not None
        return 0.1 if wrong else 0.9 + 0.01 * spec.seed + 0.005 * spec.is_dense

    def rows(expanded: Trials) -> Any:
        found = verdicts(
            trial_rows(expanded.trials, accuracy), Rule(endpoint="test_accuracy", margin_pp=1.0, alpha=0.05)
        )
        matching = [row for row in found if row["claim"] == "matches" and row["primary"]]
        return sorted((r["group"], r["baseline"], r["n_pairs"], r["n_unpaired"], r["effect"]) for r in matching)

    assert rows(plain) == rows(more) == rows(small) and len(rows(plain)) == 6


# -- tickets of another method -----------------------------------------------------------------------------------------


def judged(baselines: tuple[str, ...] = (), **axes: Any) -> list[dict[str, Any]]:
    """Verdicts of a sweep of five seeds in which trials pruned once, or with weights kept, are far below the rest."""
    axes = {"target_sparsity_pct": (64.0, 92.22), **axes}
    base = find_recipe("digits").axes
    expanded = expand(sweep(seeds=tuple(range(5)), axes={**base, **axes}, baselines=baselines))

    def accuracy(spec: TrialSpec) -> float:
        noise = np.random.default_rng([spec.seed, *spec.name.encode()]).normal(0, 0.002)
        far = spec.schedule == "omp" or spec.retrain not in (None, "weight_rewinding")
        return float(0.9 + 0.01 * spec.seed - 0.05 * far + noise)

    rows = [row | {"role": expanded.roles[row["trial"]]} for row in trial_rows(expanded.trials, accuracy)]
    return verdicts(rows, Rule(margin_pp=1.0))


def test_baselines_leave_the_verdict_of_the_tickets_as_it_was() -> None:
    """Baselines change nothing about the tickets: no number, correction or answer, nor the need for more seeds."""
    alone, beside = judged(), judged(("omp", "lr_rewinding", "fine_tuning"))
    tickets = [row for row in beside if row["role"] == "ticket" and row["kind"] not in METHODS]
    assert tickets == alone and {row["role"] for row in beside} == {"ticket", "baseline"}
    assert answer_sentence(beside) == answer_sentence(alone)
    assert settled(beside) == settled(alone)


def test_baselines_are_judged_as_tickets_are_in_families_of_their_own() -> None:
    rows = judged(("omp", "lr_rewinding", "fine_tuning"))
    matching = [row for row in rows if row["claim"] == "matches" and row["primary"]]
    assert [row["role"] for row in matching] == ["ticket"] * 4 + ["baseline"] * 8, "tickets come first"
    assert {row["correction"] for row in matching[:4]} == {"fixed sequence; Holm over 2 ladders; against: Holm over 4"}
    assert {row["correction"] for row in matching[4:]} == {"fixed sequence; Holm over 4 ladders; against: Holm over 8"}
    assert {row["verdict"] for row in matching[4:]} == {"no"}


def test_tickets_are_held_against_each_method() -> None:
    rows = judged(("omp", "lr_rewinding", "fine_tuning"))
    name = "digits-lenet_300_100-imp-s64-r1"
    found = {row["kind"]: row for row in rows if row["claim"] == "beats" and row["group"] == name}
    assert {kind: found[kind]["baseline_group"] for kind in METHODS} == {
        "omp": "digits-lenet_300_100-omp-s64-r1",
        "lr_rewinding": "digits-lenet_300_100-imp-s64-retrain_lr_rewinding-order_same",
        "fine_tuning": "digits-lenet_300_100-imp-s64-retrain_fine_tuning-order_same",
    }, "of one-shot pruning the one that is rewound to the same epoch"
    assert {(found[kind]["verdict"], found[kind]["correction"]) for kind in METHODS} == {("yes", "Holm over 4")}
    assert not [row for row in rows if row["role"] == "baseline" and row["kind"] in METHODS]


def test_rungs_of_tickets_and_of_baselines_in_one_ladder_are_two_sequences() -> None:
    """Targets of imp are rounded up to a rung, those of omp are not: its baseline has its own rungs in the ladder."""
    axes = {"schedule": ("imp", "omp"), "rewind_epoch": (0,), "target_sparsity_pct": (50.0, 80.0)}
    rows = judged(("omp",), **axes)
    omp = [row for row in rows if row["ladder"] == "digits-lenet_300_100-omp-r0"]
    largest = [row for row in omp if row["claim"] == "largest_matching_sparsity"]
    assert [row["role"] for row in largest] == ["ticket", "baseline"]
    targets = {row["role"]: row["target_sparsity_pct"] for row in omp if row["claim"] == "matches"}
    assert targets == {"ticket": 80.0, "baseline": 87.04}
    assert [row for row in rows if row["role"] == "ticket" and row["kind"] not in METHODS] == judged(**axes)


def test_what_is_a_ticket_of_the_run_is_no_baseline() -> None:
    both = {"retrain": ("weight_rewinding", "lr_rewinding")}
    rows = judged(("lr_rewinding", "omp"), rewind_epoch=(0,), **both)
    assert {row["kind"] for row in rows if row["claim"] == "beats"} & set(METHODS) == {"omp"}
    retrains = {row["group"]: row["baseline_group"] for row in rows if row["kind"] == "omp"}
    assert retrains["digits-lenet_300_100-imp-s64-retrain_lr_rewinding-order_same"] == (
        "digits-lenet_300_100-omp-s64-retrain_lr_rewinding-order_same"
    )


@pytest.mark.parametrize("schedule", ["iterative", "agp"])
def test_the_methods_of_a_ticket_that_is_pruned_within_one_fit(schedule: str) -> None:
    rows = judged(("omp", "lr_rewinding", "fine_tuning"), schedule=(schedule,))
    compared = {(row["rewind_epoch"], row["kind"]): row["baseline_group"] for row in rows if row["kind"] in METHODS}
    rewinds = {k for k, _ in compared}
    assert len(compared) == 3 * len(rewinds) and len(rewinds) == (2 if schedule == "iterative" else 1)
    assert all(compared[k, "omp"].endswith(f"-r{k or 0}-order_new") for k in rewinds)


# -- small dense -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [40, 64, 87.04, 98.99])
def test_the_width_is_the_one_with_the_nearest_count(target: float, store: Store) -> None:
    ticket = TrialSpec(target_sparsity_pct=target, epochs=1)
    width = nearest_width(ticket)
    sizes = lambda step: [max(1, int(n * step / 10_000 + 0.5)) for n in (300, 100)]  # noqa: E731
    found = {step: 64 * h + h * o + o * 10 for step in STEPS for h, o in [sizes(step)]}
    nearest = min(abs(n - width.n_kept) for n in found.values())
    assert abs(width.n_weights - width.n_kept) == nearest and found[round(width.pct * 100)] == width.n_weights
    assert width.pct * 100 == min(step for step, n in found.items() if n == width.n_weights), "the least of them"
    record = run_trial(ticket, store, "r")
    assert record["result"]["n_kept"] == width.n_kept, "what the ticket keeps indeed"
    small = run_trial(replace(ticket, control="dense", width_pct=width.pct), store, "r")
    assert small["result"]["n_weights"] == small["result"]["n_kept"] == width.n_weights, "the count is in its record"
    model = load_trial(f"{store.root}/r/trials/{small['trial']}")
    assert sum(layer.weight.numel() for layer in prunable_layers(model)) == width.n_weights


@pytest.mark.parametrize(
    "fields",
    [
        {"output_prune_rate_pct": 10, "target_sparsity_pct": 64}, {"context": "global", "target_sparsity_pct": 64},
        {"granularity": "row", "schedule": "omp", "target_sparsity_pct": 77.7},
    ],
)  # fmt: skip
def test_the_count_is_that_of_the_tickets_mask(fields: dict[str, Any], store: Store) -> None:
    ticket = TrialSpec(epochs=1, **fields)
    data = load_dataset("digits")
    model = build(ticket.model, data.shape, len(data.classes))
    record = run_trial(ticket, store, "r")
    assert weights_kept(prunable_layers(model), ticket) == record["result"]["n_kept"]
    folder = store.find(store.trial("r", ticket.name))
    assert folder is not None and max(load_masks(store, folder)) == len(ticket.level_sparsities)


def test_the_achieved_count_is_told() -> None:
    expanded = expand(sweep(baselines=("small_dense",), seeds=(0,)))
    assert len([s for s in expanded.trials if s.width_pct]) == 3, "rewind epochs share it"
    assert expanded.notes[0] == "small_dense of 64 %: width 50.84 %, 18,105 weights for 18,072 kept"


def test_width_is_in_every_key_and_in_the_name() -> None:
    dense, narrow = TrialSpec(control="dense"), TrialSpec(control="dense", width_pct=23.5)
    assert narrow.name == "digits-lenet_300_100-dense-w23.5-seed0" and narrow.key("d") != dense.key("d")
    plan = make_plan([dense, narrow], FACTS)
    assert len(plan.roots) == 2 and plan.epochs_distinct == 40
    assert role_of(narrow) == "baseline" and role_of(dense) == "dense"


def test_resnet18_of_another_width_is_the_same_network() -> None:
    """At 100 percent its tensors, names and answers are torchvision's; narrower, it has its initial scales."""
    theirs, ours = torchvision.models.resnet18(num_classes=2).eval(), _narrow_resnet18(2, 100.0).eval()
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(x), theirs(x))
    torch.manual_seed(0)
    narrow = build("resnet18", (3, 64, 64), 2, 50.0)
    assert narrow(x).shape == (2, 2)
    convolutions = [layer.weight for layer in prunable_layers(narrow)]
    assert len(convolutions) == 20 and convolutions[-1].shape == (256, 256, 3, 3)
    for weight in convolutions[1:]:
        fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
        assert float(weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_half_the_width_is_about_a_quarter_of_the_weights() -> None:
    counts = [
        sum(layer.weight.numel() for layer in prunable_layers(build("resnet18", (3, 64, 64), 2, width)))
        for width in (None, 50.0)
    ]
    assert counts[0] == 11_166_912 and 0.249 < counts[1] / counts[0] < 0.252
