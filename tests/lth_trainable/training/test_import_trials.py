"""Imported tickets as trials: they train as they would have at home, beside a dense network, through to a verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import analysis
from analysis.export.tickets import export
from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.spec.segments import segments
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.tickets.imported import ImportedTicket
from lth_trainable.training.lifecycle import Keep
from lth_trainable.training.run import run_trial
from sweeps.cli.job import facts_of
from sweeps.experiments.expand import expand
from sweeps.experiments.imported_tickets import Files, import_tickets, without_own_tickets
from sweeps.experiments.recipes import RECIPES, Sweep
from sweeps.lth_grid import main
from sweeps.planning.plan import make_plan
from sweeps.runs.inventory import read_runs
from sweeps.runs.ledger import Ledger
from sweeps.verify import main as verify
from tests.support.records import around, dense, ladder, make_run
from tests.support.tickets import DIGEST, read, write_half, write_masked

PLAIN_SGD = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0}  # an optimiser without a state that a file would lack


@pytest.fixture
def half_ticket(tmp_path: Path) -> ImportedTicket:
    return write_half(tmp_path / "half.pt")


# -- out and in again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "k"),
    [({}, 0), (PLAIN_SGD, 1)],
    ids=["from the initialisation", "from epoch 1, with an optimiser that remembers nothing"],
)
def test_an_exported_ticket_trains_to_the_same_bytes_and_so_does_its_dense_network(
    fields: dict[str, Any], k: int, store: Store, tmp_path: Path
) -> None:
    home = TrialSpec(target_sparsity_pct=64.0, rewind_epoch=k, epochs=3, seed=4, **fields)
    records = {spec.control: run_trial(spec, store, "home") for spec in (home, replace(home, control="dense"))}
    (exported,) = export([f"{store.root}/home/trials/{home.name}"], tmp_path)
    found = read(exported.path)
    assert found.epoch == k and not found.masked
    kept = {entry["layer"]: entry["n_kept"] for entry in records["none"]["layers"] if entry["level"] == 2}
    assert {name: int(mask.sum()) for name, mask in found.masks.items()} == kept
    elsewhere = Store(tmp_path / "elsewhere")
    found.seal(elsewhere)
    spec = replace(home, ticket=str(found.id()), schedule=None, retrain="auto")
    for control, record in records.items():
        again = run_trial(replace(spec, control=control), elsewhere)
        assert again["sha256"]["weights"] == record["sha256"]["weights"]
        assert again["result"]["test_accuracy"] == record["result"]["test_accuracy"]
        assert len(again["epochs"]) == 3 - k and {row["level"] for row in again["epochs"]} == {int(control == "none")}
    order = run_trial(replace(spec, seed=5), elsewhere)
    assert order["sha256"]["weights"] != records["none"]["sha256"]["weights"], "another seed is another order"
    (back,) = export([f"{elsewhere.root}/alone/trials/{replace(spec, control='none').name}"], tmp_path / "back")
    assert read(back.path).digest == found.digest, "what is imported is exported as it came"


def test_controls_of_an_exported_ticket_of_one_level_train_to_the_same_bytes(store: Store, tmp_path: Path) -> None:
    """Of one level: a control's chance is that of its seed and level."""
    home = TrialSpec(target_sparsity_pct=40.0, epochs=2, seed=4)
    run_trial(home, store, "home")
    (exported,) = export([f"{store.root}/home/trials/{home.name}"], tmp_path)
    found = read(exported.path)
    found.seal(store)
    spec = replace(home, ticket=str(found.id()), schedule=None, retrain="auto")
    for control in ("random_mask", "layerwise_shuffle", "reinit", "random_sparse"):
        ours, theirs = (run_trial(replace(ticket, control=control), store) for ticket in (spec, home))
        assert ours["sha256"]["weights"] == theirs["sha256"]["weights"], control
        assert ours["result"]["n_kept"] == theirs["result"]["n_kept"]


def test_an_imported_ticket_goes_on_from_the_middle(half_ticket: ImportedTicket, store: Store, tmp_path: Path) -> None:
    spec = TrialSpec(ticket=str(half_ticket.id()), target_sparsity_pct=50.0, epochs=3)
    elsewhere = Store(tmp_path / "elsewhere")
    for place in (store, elsewhere):
        half_ticket.seal(place)
    whole = run_trial(spec, elsewhere)
    line = segments(spec, load_dataset("digits").digest)[-1]
    run_trial(spec, store, keep=Keep(states={line.key_at(2): False}))
    for gone in (f"states/{line.key}", f"alone/trials/{spec.name}"):
        store.delete_folder(gone)
    again = run_trial(spec, store)
    assert again["epochs_trained"] == 1 and again["sha256"] == whole["sha256"]


def test_the_dense_network_of_a_masked_ticket_is_the_seeds_own(store: Store, tmp_path: Path) -> None:
    found = write_masked(tmp_path / "masked.pt")
    found.seal(store)
    spec = TrialSpec(ticket=str(found.id()), target_sparsity_pct=50.0, epochs=1, seed=2)
    ours = run_trial(replace(spec, control="dense"), store)
    plain = run_trial(TrialSpec(control="dense", epochs=1, seed=2), store)
    assert ours["states"] == plain["states"] and plain["epochs_trained"] == 0
    ticket = run_trial(spec, store)
    assert ticket["result"]["n_kept"] == sum(int(mask.sum()) for mask in found.masks.values())
    assert ticket["spec"]["ticket"] == f"{found.digest}-masked"


# -- as the trials of a sweep ------------------------------------------------------------------------------------------


def imports(
    store: Store, *tickets: Path | str, **axes: tuple[Any, ...]
) -> tuple[Sweep, tuple[ImportedTicket, ...], str]:
    """The recipe digits with these tickets as its own."""
    files = Files(tickets=tuple(map(str, tickets)), masks=())
    sweep, found, notes = import_tickets(Sweep(name="a", claim="?", axes=axes, seeds=(0, 1)), files, store, None)
    return sweep, found, "\n".join(notes)


def test_tickets_are_an_axis_with_a_dense_network_each(
    half_ticket: ImportedTicket, tmp_path: Path, store: Store
) -> None:
    masked = {name: tensor.clone() for name, tensor in half_ticket.weights.items()}
    masked["1.weight"][half_ticket.masks["1.weight"] == 0] = 0
    masked["1.weight"][0, 0] = 0  # was the least sparse place of all
    torch.save(masked, tmp_path / "masked.pt")
    sweep, found, notes = imports(store, tmp_path / "half.pt", tmp_path / "masked.pt", lr=(1e-3, 2e-3))
    trials = expand(sweep).trials
    tickets = [spec for spec in trials if spec.control == "none"]
    assert len(tickets) == 2 * 2 * 2 and len(trials) == 2 * len(tickets)
    assert {spec.ticket for spec in trials} == {str(ticket.id()) for ticket in found}
    assert {(spec.ticket, spec.target_sparsity_pct) for spec in tickets} == {
        (str(found[0].id()), 50.0), (str(found[1].id()), 19.12),
    }  # fmt: skip
    assert "half.pt: ticket" in notes and "dense networks start from its weights" in notes
    assert "masked.pt: ticket" in notes and "start from the seed's own initialisation" in notes
    assert "seeds only change the order of the data" in notes
    assert not store.exists("states"), "nothing is written before the plan is"


def test_a_rewind_epoch_says_where_on_the_clock_training_starts(half_ticket: ImportedTicket, store: Store) -> None:
    half_ticket.seal(store)
    sweep, _, _ = imports(store, half_ticket.digest[:16], rewind_epoch=("0", "3"))
    trials = expand(sweep).trials
    assert {(spec.ticket, spec.rewind_epoch, spec.epochs_alone()) for spec in trials if not spec.is_dense} == {
        (half_ticket.digest, 0, 20), (f"{half_ticket.digest}-e3", 3, 17),
    }  # fmt: skip
    assert {spec.epochs_alone() for spec in trials if spec.is_dense} == {20, 17}


def test_a_run_keeps_the_content_of_its_tickets(half_ticket: ImportedTicket, store: Store) -> None:
    half_ticket.seal(store)
    sweep, _, _ = imports(store, half_ticket.digest)
    trials = expand(sweep).trials
    facts = {of: facts_of(of, None) for of in {trial.data_key for trial in trials}}
    plan = make_plan(trials, facts)
    Ledger(store=store, run="a", plan=plan, facts=facts).write_plan(sweep, ["a"])
    (run,) = read_runs(store)
    assert run.needs(store.state(half_ticket.digest, {})) and not run.needs(store.state("f" * 64, {}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--import-ticket", "half.pt", "--sparsity", "50"], "--sparsity: found '50.0'; expected no such flag with"),
        (["--import-ticket", "half.pt", "--schedule", "agp"], "--schedule: found 'agp'; expected no such flag with"),
        (["--import-ticket", "half.pt", "--rewind-epoch", "500it"], "--rewind-epoch: found '500it'"),
        (["--import-ticket", "half.pt", "--model", "lenet_300_100", "resnet18"], "expected one value with"),
        (["--import-ticket", "half.pt", "--import-masks", "a.pt", "b.pt"], "as many as tickets, in their order: 1"),
        (["--import-masks", "half.pt"], "expected --import-ticket with the weights"),
        (["--import-ticket", "nowhere.pt"], "there is no such file or folder"),
        (["--import-ticket", "0a" * 8], "found none in"),
        (["--import-ticket", "half.pt", "--address", "http://head:8265"], "expected an absolute path that all nodes"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], message: str, half_ticket: ImportedTicket, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["digits", "--storage", "runs", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_controls_and_baselines_are_those_that_the_file_has_weights_for(
    half_ticket: ImportedTicket, tmp_path: Path
) -> None:
    masked = write_masked(tmp_path / "masked.pt")
    point = {"target_sparsity_pct": (50.0,), "layers": ("auto",)}
    of_signs = {"sign_flip", "new_magnitudes", "constant_magnitude"}
    for ticket, controls in (
        (half_ticket, {"random_mask", "layerwise_shuffle", "reinit", "random_sparse", *of_signs}),
        (masked, {"reinit", "random_sparse"}),
    ):
        axes = {"ticket": (str(ticket.id()),), **point}
        space = expand(Sweep(name="a", claim="?", axes=axes, seeds=(0,), controls=("all",), baselines=("all",)))
        assert {spec.control for spec in space.trials} == {"none", "dense", *controls}
        of_dense = [spec for spec in space.trials if spec.is_dense and spec.order_seed is None]  # no dense_again
        assert sorted((spec.width_pct is None, spec.starts_from_imported) for spec in of_dense) == [
            (False, False), (True, ticket is half_ticket),
        ], "the network of its own width, and small_dense"  # fmt: skip
        left_out = next(note for note in space.notes if note.startswith("baselines all"))
        for name in ("dense_stretched", "omp", "lr_rewinding", "fine_tuning"):
            assert f"{name} for none" in left_out
    with pytest.raises(UserError, match=r"controls random_mask: .*whose file also has the weights outside its mask"):
        expand(Sweep(name="a", claim="?", axes={"ticket": (str(masked.id()),), **point}, controls=("random_mask",)))


def test_every_recipe_takes_an_import(half_ticket: ImportedTicket) -> None:
    for recipe in RECIPES.values():
        sweep = without_own_tickets(recipe(), {}, {})
        ticket = {"ticket": (DIGEST,), "target_sparsity_pct": (50.0,), "layers": ("auto",)}
        trials = expand(replace(sweep, axes={**sweep.axes, **ticket})).trials
        networks, controls = (
            len(sweep.axes.get("model", ("one",))),
            {spec.control for spec in trials} - {"none", "dense"},
        )
        is_all = sweep.controls == ("all",)  # then dense networks in another order too
        assert controls == set(sweep.controls) or (is_all and controls >= {"reinit", "random_mask"})
        expected = networks * (2 + len(controls) + is_all) * len(sweep.seeds)
        assert len(trials) == expected, "a ticket with all it has on each seed, with each network's own setting"


def test_in_one_run_every_ticket_is_compared_with_the_dense_network_of_its_own(tmp_path: Path) -> None:
    mine, masked = {"ticket": DIGEST}, {"ticket": f"{'1b' * 32}-masked-e2"}
    fields: tuple[dict[str, Any], ...] = ({}, mine, masked)
    specs = [spec for more in fields for spec in (*dense(**more), *ladder(64.0, **more))]
    frames = analysis.gather(make_run(tmp_path, specs, around(0.95)))
    compared = frames.verdicts[frames.verdicts["claim"] == "matches"].set_index("group")["baseline_group"].to_dict()
    assert compared == {
        "digits-lenet_300_100-imp-s64-r0": "digits-lenet_300_100-dense",
        "digits-lenet_300_100-ticket-s64-r0-t0a0a0a0a": "digits-lenet_300_100-dense-t0a0a0a0a",
        "digits-lenet_300_100-ticket-s64-r2-t1b1b1b1b.e2": "digits-lenet_300_100-dense-t1b1b1b1b.e2",
    }
    report = (tmp_path / "run" / "report.html").read_text()
    assert "imported, rewind epoch 2, 1b1b1b1b.e2" in report


@pytest.mark.slow
def test_an_imported_ticket_goes_through_a_sweep_to_a_verdict(half_ticket: ImportedTicket, tmp_path: Path) -> None:
    storage = str(tmp_path / "runs")
    common = ["digits", "--controls", "none", "--epochs", "2", "--seeds", "5", "--storage", storage, "--json"]
    assert main([*common, "--import-ticket", str(tmp_path / "half.pt")]) == 0
    frames = analysis.load(f"{storage}/digits_import")
    assert set(frames.trials["status"]) == {"done"} and set(frames.trials["ticket"]) == {half_ticket.digest}
    assert frames.verdicts.set_index("claim").loc["matches", "n_pairs"] == 5
    (tmp_path / "half.pt").unlink()
    assert main([*common, "--import-ticket", half_ticket.digest[:8], "--seeds", "6"]) == 0
    assert len(analysis.load(f"{storage}/digits_import").trials) == 12
    assert verify([f"{storage}/digits_import", "--trials", "2"]) == 0
