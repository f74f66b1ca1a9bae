"""Controls as trials: where they part from their ticket, what they start from, what they cost, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.models.networks import build
from lth_trainable.pruning.controls import CONTROLS, draws
from lth_trainable.seeds import derive_seed
from lth_trainable.spec.segments import Segment, recorded_keys, rewind_key, segments
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.store.record import Identity, can_record
from lth_trainable.store.store import Store
from lth_trainable.store.trials import load_masks, load_trial
from lth_trainable.training.run import Keep, run_trial
from sweeps.planning.work import work_left
from tests.support.plans import planned
from tests.support.runs import plan_of
from tests.support.watch import BASE, COLUMNS, differing, start_of, watched

TICKETS: dict[str, dict[str, Any]] = {
    "imp, epoch 5": {"target_sparsity_pct": 64, "rewind_epoch": 5},
    "imp, iteration": {"target_sparsity_pct": 64, "rewind_epoch": "45it"},
    "omp": {"schedule": "omp", "rewind_epoch": 0},
    "lr_rewinding": {"target_sparsity_pct": 64, "retrain": "lr_rewinding"},
    "iterative": {"schedule": "iterative", "rewind_epoch": 1},
    "agp": {"schedule": "agp"},
    "supermask": {"target_sparsity_pct": 64, "reset_end": True},
    "supermask within a fit": {"schedule": "one_shot", "rewind_epoch": 1, "reset_end": True},
}


SIGNS = ("sign_flip", "new_magnitudes", "constant_magnitude")
REWOUND = ("random_mask", "layerwise_shuffle", *SIGNS)


def controls_of(ticket: TrialSpec) -> list[TrialSpec]:
    found = []
    for name in CONTROLS:
        try:
            found.append(replace(ticket, control=name))
        except UserError:
            continue
    return found


def chain(spec: TrialSpec) -> tuple[Segment, ...]:
    return segments(spec, "d" * 64, 20)


# -- where they part -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TICKETS)
def test_a_control_is_its_ticket_up_to_the_last_prune(name: str) -> None:
    ticket = TrialSpec(**TICKETS[name])
    theirs = chain(ticket)
    prune = max(i for i, segment in enumerate(theirs) if segment.kind == "prune")
    before = len(theirs) - 2 if ticket.reset_end else prune  # a supermask's control has all of its training too
    assert controls_of(ticket)
    for spec in controls_of(ticket):
        ours = chain(spec)
        assert spec.parent == ticket.name and ticket.name != spec.name and ticket.parent is None
        assert replace(spec, control="none") == ticket
        assert [s.key for s in ours[: before + 1]] == [s.key for s in theirs[: before + 1]]
        assert not {s.key for s in ours[before + 1 :]} & {s.key for s in theirs}
        assert ours[before + 1].kind == "control" and ours[-1].level == theirs[-1].level
        assert sum(segment.epochs for segment in ours) == spec.epochs_alone(20)


def test_only_what_acts_is_in_the_key_of_a_control() -> None:
    def control(**fields: Any) -> str:
        return next(s.key for s in chain(TrialSpec(schedule="omp", **fields)) if s.kind == "control")

    assert control(control="reinit", rewind_epoch=0) == control(control="reinit", rewind_epoch=5)
    assert control(control="reinit", retrain="lr_rewinding") == control(control="reinit", retrain="fine_tuning")
    names = [name for name, c in CONTROLS.items() if c.of_tickets]
    rewound = [name for name in names if not CONTROLS[name].starts_over]
    assert len({control(control=name, rewind_epoch=k) for name in names for k in (0, 5)}) == 2 * len(rewound) + 2
    assert control(control="reinit", control_lr=0.1) != control(control="reinit")
    assert control(control="sign_flip", sign_flip_pct=5) != control(control="sign_flip")
    assert control(control="sign_flip", sign_flip_pct=10) == control(control="sign_flip"), "the usual share"
    assert control(control="reinit", control_lr=TrialSpec().lr) == control(control="reinit"), "the ticket's own rate"
    assert control(control="reinit") != control(control="reinit", retrain="lr_rewinding"), "its data order is another"
    assert control(control="random_mask") != control(control="random_mask", rewind_optimizer="fresh")


def test_controls_that_start_over_have_one_initialisation_of_their_own() -> None:
    names = ("none", "reinit", "random_sparse", "random_mask")
    specs = [TrialSpec(target_sparsity_pct=40, rewind_epoch=1, control=name) for name in names]
    keys = [recorded_keys(spec, chain(spec)) for spec in specs]
    assert [sorted(found) for found in keys] == [
        ["final", "initial", "rewind"], ["final", "initial"], ["final", "initial"], ["final", "initial", "rewind"],
    ]  # fmt: skip
    assert keys[1]["initial"] == keys[2]["initial"] != keys[0]["initial"] == keys[3]["initial"]
    assert rewind_key(specs[1], chain(specs[1])) is None, "its only level is the one that starts over"
    two_levels = replace(specs[1], target_sparsity_pct=64)
    assert rewind_key(two_levels, chain(two_levels)) == keys[0]["rewind"], "the level before it is rewound"


# -- what they cost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ticket", "wanted"),
    [
        ("imp, epoch 5", {**dict.fromkeys(REWOUND, 15), "reinit": 20, "random_sparse": 20}),
        ("imp, iteration", {**dict.fromkeys(REWOUND, 18), "reinit": 20, "random_sparse": 20}),
        ("omp", {**dict.fromkeys(REWOUND, 20), "reinit": 20, "random_sparse": 20}),
        ("lr_rewinding", {"reinit": 20, "random_sparse": 20}),
        ("iterative", {**dict.fromkeys(REWOUND, 5), "reinit": 5, "random_sparse": 5}),
        ("agp", {"reinit": 5, "random_sparse": 5}),
        ("supermask", dict.fromkeys(("layerwise_shuffle", "sign_shuffle", *SIGNS), 0)),
        ("supermask within a fit", dict.fromkeys(("layerwise_shuffle", "sign_shuffle", *SIGNS), 0)),
    ],
)
def test_beside_its_ticket_a_control_costs_one_level(ticket: str, wanted: dict[str, int]) -> None:
    """T - k epochs from the rewind weights, T from step 0; within a fit what is left of it; of a supermask none."""
    spec = TrialSpec(**{**TICKETS[ticket], **({"start_pct": 0.25} if ticket == "iterative" else {})})
    alone = planned([spec])
    found = {control.control: planned([spec, control]) for control in controls_of(spec)}
    assert {name: plan.epochs_distinct - alone.epochs_distinct for name, plan in found.items()} == wanted
    for plan in found.values():
        trial = next(trial for trial in plan.trials if trial.spec == spec)
        points = {trial.mid_epoch_point.key} if trial.mid_epoch_point is not None else set()
        work = work_left(plan, {spec.name}, points | {node.key for node in trial.end.path()})
        assert work.epochs == plan.epochs_distinct - alone.epochs_distinct


def test_a_ladder_with_all_controls_costs_what_the_formula_says() -> None:
    """T + L_max (T - k) of the tickets, and for each rung 5 (T - k) + 2 T of its controls."""
    T, k, levels = 20, 5, (1, 2, 5)
    rungs = [TrialSpec(target_sparsity_pct=round(100 * (1 - 0.6**level), 2), rewind_epoch=k) for level in levels]
    plan = planned([*rungs, *(control for ticket in rungs for control in controls_of(ticket))])
    assert plan.epochs_distinct == T + max(levels) * (T - k) + len(levels) * (5 * (T - k) + 2 * T)


# -- what they start from --------------------------------------------------------------------------------------------


def new_initialisation(seed: int = 0) -> Any:
    torch.manual_seed(derive_seed(seed, "control-init"))
    data = load_dataset("digits")
    return build(BASE["model"], data.shape, len(data.classes))


def masked_by(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight != 0 for name, weight in weights.items() if weight.ndim == 4}


@pytest.mark.parametrize("control", SIGNS)
def test_a_control_of_signs_starts_at_the_rewind_point_but_for_its_weights(control: str) -> None:
    """Every other tensor, the optimiser, the learning rate and the batches are those of the ticket's rewind."""
    ours, first = start_of(control, rewind_epoch=1)
    ticket, _ = start_of("none", rewind_epoch=1)
    assert first == 5
    for column in (name for name in COLUMNS if name != "weights"):
        assert not differing(ours[column], ticket[column]), column
    n_kept, n_other = 0, 0
    for name, weight in masked_by(ticket["weights"]).items():
        mine, theirs = ours["weights"][name][weight], ticket["weights"][name][weight]
        assert not ours["weights"][name][~weight].any()
        n_kept, n_other = n_kept + mine.numel(), n_other + int((mine.sign() != theirs.sign()).sum())
        if control == "constant_magnitude":
            assert len(mine.abs().unique()) == 1
        else:
            assert torch.equal(mine.abs(), theirs.abs()) is (control == "sign_flip")
    assert n_other == 0 if control != "sign_flip" else 0.05 < n_other / n_kept < 0.15, "a tenth of the signs"


def test_a_control_trains_its_own_level_at_its_own_rate() -> None:
    fields = (("control", "reinit"), ("rewind_epoch", 1))
    usual, ours = watched(fields).seen, watched((*fields, ("control_lr", 2 * BASE["lr"]))).seen
    column = "learning rate and momentum"
    for place, seen in usual.items():
        factor = 2 if place[0] else 1
        assert ours[place][column]["lr"] == pytest.approx(factor * seen[column]["lr"], rel=1e-6), place
        assert ours[place][column]["mom"] == pytest.approx(seen[column]["mom"])


@pytest.mark.parametrize(("k", "step"), [(1, 5), ("7it", 7), (0, 0)])
@pytest.mark.parametrize("control", ["random_mask", "layerwise_shuffle"])
def test_a_control_of_the_mask_starts_where_its_ticket_does(control: str, k: Any, step: int) -> None:
    ours, first = start_of(control, rewind_epoch=k)
    dense, ticket = watched((("control", "dense"),)).seen, watched((("rewind_epoch", k),))
    theirs = ticket.seen[1, ticket.first[1]]
    assert first == step == ticket.first[1]
    for column in COLUMNS[1:]:  # all but the weights: optimiser, learning rate, order, augmentation, dropout, norms
        assert not differing(ours[column], theirs[column]), column
    mine, other = masked_by(ours["weights"]), masked_by(theirs["weights"])
    unmasked = {
        name: torch.where(mine.get(name, torch.ones_like(weight, dtype=torch.bool)), weight, 0.0)
        for name, weight in dense[0, step]["weights"].items()
    }  # fmt: skip
    assert not differing(ours["weights"], unmasked), "weights that the ticket does not keep have their value of k too"
    assert any(bool((mine[name] & ~other[name]).any()) for name in mine)
    kept = {name: int(mask.sum()) for name, mask in mine.items()}
    wanted = {name: int(mask.sum()) for name, mask in other.items()}
    assert sum(kept.values()) == sum(wanted.values()) and (control == "random_mask" or kept == wanted)


@pytest.mark.parametrize("k", [1, "7it"])
@pytest.mark.parametrize("control", ["reinit", "random_sparse"])
def test_a_new_initialisation_starts_at_step_0_as_if_nothing_had_been(control: str, k: Any) -> None:
    ours, first = start_of(control, rewind_epoch=k)
    dense, ticket = watched((("control", "dense"),)).seen, watched((("rewind_epoch", k),))
    assert first == 0 and ours["optimiser"] == {}
    for column in ("running statistics", "learning rate and momentum", "order and augmentation", "dropout"):
        assert not differing(ours[column], dense[0, 0][column]), column
    network = {name: p.detach() for name, p in new_initialisation().named_parameters()}
    mine = masked_by(ours["weights"])
    for name, weight in ours["weights"].items():
        assert torch.equal(weight, torch.where(mine[name], network[name], 0.0) if name in mine else network[name])
    other = masked_by(ticket.seen[1, ticket.first[1]]["weights"])
    assert (control == "reinit") == all(torch.equal(mine[name], other[name]) for name in mine)
    assert {n: int(m.sum()) for n, m in mine.items()} == {n: int(m.sum()) for n, m in other.items()}
    steps = sorted(
        step for level, step in watched(tuple({"control": control, "rewind_epoch": k}.items())).seen if level
    )
    assert steps == list(range(20)), "the whole schedule"


@pytest.mark.parametrize(("retrain", "rate_of"), [("lr_rewinding", 0), ("fine_tuning", 0)])
def test_a_new_initialisation_has_the_order_of_its_tickets_level_and_the_whole_schedule(
    retrain: str, rate_of: int
) -> None:
    ours, first = start_of("reinit", retrain=retrain)
    ticket = watched((("retrain", retrain),))
    assert first == 0
    for column in ("order and augmentation", "dropout"):
        assert not differing(ours[column], ticket.seen[1, 0][column])
    dense = watched((("control", "dense"),)).seen
    assert not differing(ours["learning rate and momentum"], dense[0, rate_of]["learning rate and momentum"])


@pytest.mark.parametrize("control", ["random_mask", "reinit"])
def test_within_a_fit_all_else_runs_on(control: str) -> None:
    fields = {"schedule": "one_shot", "rewind_epoch": 1, "start_pct": 0.5}
    ours, first = start_of(control, **fields)
    ticket = watched(tuple(fields.items()))
    theirs = ticket.seen[1, ticket.first[1]]
    assert first == ticket.first[1] == 10
    for column in ("optimiser", "learning rate and momentum", "order and augmentation", "dropout"):
        assert not differing(ours[column], theirs[column]), column
    mine, other = masked_by(ours["weights"]), masked_by(theirs["weights"])
    assert (control == "reinit") == all(torch.equal(mine[name], other[name]) for name in mine)
    network = {name: p.detach() for name, p in new_initialisation().named_parameters()}
    start = network if control == "reinit" else watched((("control", "dense"),)).seen[0, 5]["weights"]
    for name, mask in mine.items():
        assert torch.equal(ours["weights"][name], torch.where(mask, start[name], 0.0))


# -- what they are ---------------------------------------------------------------------------------------------------

CNN: dict[str, Any] = {"model": "tests.plugins:tiny_cnn", "batch_size": 230, "epochs": 2, "target_sparsity_pct": 64}


def record_of(store: Store, **fields: Any) -> dict[str, Any]:
    return run_trial(TrialSpec(**{**CNN, **fields}), store, "r")


def masks_of(store: Store, record: dict[str, Any]) -> dict[int, dict[str, Any]]:
    folder = store.find(store.trial("r", record["trial"]))
    assert folder is not None
    return load_masks(store, folder)


@pytest.mark.parametrize("fields", [{"rewind_epoch": 1}, {"granularity": "filter"}, {"context": "global"}])
def test_the_record_has_the_controls_masks_in_place_of_the_tickets_last(fields: dict[str, Any], store: Store) -> None:
    made = record_of(store, **fields)
    ticket = masks_of(store, made)
    ticket[2] = {row["layer"]: ticket[2][row["layer"]] for row in made["layers"] if row["level"] == 2}  # in their order
    axes = dict.fromkeys(ticket[2], (1, 2, 3) if "granularity" in fields else ())
    for name in ("random_mask", "layerwise_shuffle", "reinit", "random_sparse"):
        record = record_of(store, control=name, **fields)
        found = masks_of(store, record)
        wanted = CONTROLS[name].masks(ticket[2], axes, draws(0, 2))
        assert set(found) == {1, 2}
        assert all(np.array_equal(found[1][n], ticket[1][n]) for n in ticket[1])
        assert all(np.array_equal(found[2][n], wanted[n]) for n in wanted)
        kept = {row["layer"]: row["n_kept"] for row in record["layers"] if row["level"] == 2}
        assert kept == {n: int(mask.sum()) for n, mask in wanted.items()}
        assert record["result"]["n_kept"] == sum(kept.values())
        assert record["epochs"][-1]["sparsity_pct"] == record["result"]["sparsity_pct"]
        assert [row["level"] for row in record["epochs"]][-1] == 2 and record["status"] == "done"


def test_a_control_that_starts_over_leaves_what_the_dense_network_is_recorded_from(store: Store) -> None:
    dense, reinit = (TrialSpec(**{**CNN, "rewind_epoch": 1, "control": control}) for control in ("dense", "reinit"))
    plan = plan_of([dense, reinit])
    first, second = (next(t for t in plan.trials if t.spec == spec) for spec in (dense, reinit))
    record = run_trial(reinit, store, "r", keep=Keep(states=plan.keep(second)))
    identity = Identity(spec=dense, key=first.key, chain=first.chain, fingerprint=record["fingerprint"])
    assert can_record(store, identity)


def test_initial_weights_of_a_reinitialised_network_are_its_own(store: Store) -> None:
    ticket, reinit = record_of(store, rewind_epoch=1), record_of(store, rewind_epoch=1, control="reinit")
    assert set(reinit["states"]) == {"initial", "final"} and set(ticket["states"]) == {"initial", "rewind", "final"}
    model = load_trial(f"{store.root}/r/trials/{reinit['trial']}", "initial")
    wanted = new_initialisation()
    masks = masks_of(store, ticket)[2]
    for name, tensor in wanted.state_dict().items():
        mine = model.state_dict()[name]
        assert torch.equal(mine, tensor * torch.from_numpy(masks[name]) if name in masks else tensor), name
    with pytest.raises(UserError, match="found no rewind weights"):
        load_trial(f"{store.root}/r/trials/{reinit['trial']}", "rewind")


@pytest.mark.parametrize("fields", [{"rewind_epoch": 1}, {"schedule": "one_shot", "rewind_epoch": 1, "epochs": 4}])
def test_controls_of_a_supermask_are_of_its_untrained_weights(fields: dict[str, Any], store: Store) -> None:
    fields = {**fields, "reset_end": True}
    ticket = record_of(store, **fields)
    last = max(masks_of(store, ticket))
    masks = masks_of(store, ticket)[last]
    start = load_trial(f"{store.root}/r/trials/{ticket['trial']}", "rewind").state_dict()
    for name in ("sign_shuffle", "layerwise_shuffle"):
        record = record_of(store, control=name, **fields)
        assert record["result"]["best_valid_accuracy"] is None, "the rows are of the trained network"
        assert record["states"]["rewind"] == ticket["states"]["rewind"]
        final = load_trial(f"{store.root}/r/trials/{record['trial']}").state_dict()
        mine = masks_of(store, record)[last]
        for layer, mask in masks.items():
            weights, before = final[layer].numpy(), start[layer].numpy()
            assert mine[layer].sum() == mask.sum()
            assert (name == "sign_shuffle") == np.array_equal(mine[layer], mask)
            if name == "sign_shuffle":
                assert np.array_equal(np.abs(weights), np.abs(before)) and not np.array_equal(weights, before)
                assert np.signbit(weights[mask]).sum() == np.signbit(before[mask]).sum()
        for other in set(final) - set(masks):
            assert torch.equal(final[other], start[other]), "all else is of the rewind point"


@pytest.mark.parametrize("control", ["random_mask", "random_sparse"])
def test_a_control_depends_on_its_seed_and_on_nothing_of_the_process(control: str, store: Store) -> None:
    first = record_of(store, control=control, schedule="omp")
    torch.manual_seed(77)
    np.random.seed(77)  # noqa: NPY002
    torch.rand(5)
    again = record_of(Store(f"{store.root}-again"), control=control, schedule="omp")
    other = record_of(store, control=control, schedule="omp", seed=1)
    assert first["sha256"] == again["sha256"]
    assert first["sha256"]["masks"] != other["sha256"]["masks"]
    ticket = spec_from_dict(first["spec"])
    assert ticket.parent is not None and "seed0" in ticket.parent


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"control": "shuffle"}, "one of .*layerwise_shuffle"),
        ({"control": "sign_shuffle"}, "reinit or random_sparse or .* for a ticket that is trained"),
        ({"control": "reinit", "reset_end": True}, "layerwise_shuffle or sign_shuffle or .* for a supermask"),
        ({"control": "reinit", "control_lr": 0}, "a positive learning rate"),
        ({"control": "reinit", "schedule": "one_shot", "control_lr": 0.1}, "within one fit the learning rate runs on"),
        ({"control": "sign_flip", "sign_flip_pct": 0}, "more than 0 and at most 100"),
        ({"control": "sign_flip", "sign_flip_pct": 101}, "more than 0 and at most 100"),
        ({"control": "sign_flip", "retrain": "lr_rewinding"}, "choose reinit or random_sparse"),
        ({"control": "random_mask", "retrain": "lr_rewinding"}, "choose reinit or random_sparse"),
        ({"control": "layerwise_shuffle", "retrain": "fine_tuning"}, "zero outside its own mask"),
        ({"control": "random_mask", "schedule": "agp"}, "choose reinit or random_sparse"),
        ({"control": "reinit", "schedule": "dsd"}, "whose sparsity never falls"),
        ({"control": "reinit", "schedule": "tests.plugins:there_and_back"}, "whose sparsity never falls"),
        ({"control": "dense_restarts", "reset_end": True}, "a ticket that is trained"),
        ({"control": "none", "width_pct": 50}, "None with control none"),
        ({"control": "dense", "width_pct": 100}, "less than 100"),
        ({"control": "dense", "width_pct": 0}, "less than 100"),
    ],
)  # fmt: skip
def test_what_makes_no_control_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrialSpec(**fields)
