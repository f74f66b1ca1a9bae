from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import FAILURE, MANIFEST, PLAN, STATES, Store, to_json
from lth_trainable.training.run import Keep, run_trial
from sweeps.status import main
from tests.support.runs import DENSE, LADDER, LONGER, OTHER, sweep, write_plan


def tell(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def show(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 0
    return capsys.readouterr().out


def statuses(told: dict[str, Any]) -> dict[str, str]:
    return {trial["trial"]: trial["status"] for trial in told["trials"]}


def drive(store: Store, run: str, running: dict[str, Any], beat: float) -> None:
    driver = {"host": "elsewhere", "pid": 7, "started": beat - 60, "beat": beat, "running": running}
    store.write(f"{run}/driver.json", to_json(driver))


@pytest.fixture
def path(store: Store) -> str:
    return f"{store.root}/a"


def test_a_run_that_has_not_begun(store: Store, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(store, "a", [*LADDER, DENSE])
    told = tell(capsys, path)
    assert set(statuses(told).values()) == {"not started"} and told["driver"] is None
    assert told["epochs"] == {"distinct": 4, "trained": 0, "left": 4}
    assert "no driver is running" in show(capsys, path)


def test_done_diverged_failed_and_not_started(store: Store, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    diverging = TrialSpec(control="dense", epochs=2, optimizer="sgd", lr=1e30)
    sweep(store, "a", [LADDER[0], DENSE, diverging])
    write_plan(store, "a", [LADDER[0], DENSE, diverging, LADDER[1], OTHER])
    failure = {"reason": "ValueError: no [such] thing", "traceback": "Traceback\n  line\nValueError: no [such] thing\n"}
    store.write(f"a/trials/{OTHER.name}/{FAILURE}", to_json(failure))
    told = tell(capsys, path)
    assert statuses(told) == {
        LADDER[0].name: "done", DENSE.name: "done", diverging.name: "diverged", LADDER[1].name: "not started",
        OTHER.name: "failed",
    }  # fmt: skip
    assert told["counts"] == {
        "done": 2, "diverged": 1, "running": 0, "failed": 1, "damaged": 0, "held back": 0, "not started": 1,
    }  # fmt: skip
    assert told["epochs"] == {"distinct": 7, "trained": 5, "left": 2}
    out = show(capsys, path)
    assert f"failed: {OTHER.name}: ValueError: no [such] thing" in out and "5 trials: 2 done, 1 diverged" in out
    detail = show(capsys, path, "seed1")
    assert "last failure: ValueError" in detail and "  ValueError: no [such] thing" in detail
    assert "the loss was not finite at level 0, epoch 0" in show(capsys, path, diverging.name)


def test_running_and_held_back(store: Store, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(store, "a", [DENSE])
    write_plan(store, "a", [DENSE, *LADDER, OTHER])
    store.write(f"a/trials/{LADDER[0].name}/{FAILURE}", to_json({"reason": "an earlier attempt", "traceback": ""}))
    drive(store, "a", {LADDER[0].name: {"epochs": 1, "level": 1}}, time.time() - 3)
    told = tell(capsys, path)
    assert statuses(told) == {
        DENSE.name: "done", LADDER[0].name: "running", LADDER[1].name: "held back", OTHER.name: "not started",
    }  # fmt: skip
    assert told["driver"]["alive"] and told["trials"][2]["waits_for"] == [LADDER[0].name]
    out = show(capsys, path)
    assert "a driver is running: process 7 on elsewhere" in out
    assert f"running: {LADDER[0].name}: level 1, epochs trained: 1" in out
    assert f"waits for {LADDER[0].name}" in show(capsys, path, LADDER[1].name)


def test_a_driver_that_was_killed(store: Store, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(store, "a", [DENSE, *LADDER])
    drive(store, "a", {LADDER[0].name: {"epochs": 1, "level": 1}}, time.time() - 3600)
    told = tell(capsys, path)
    assert not told["driver"]["alive"] and set(statuses(told).values()) == {"not started"}
    assert f"1:00:00 ago, while running {LADDER[0].name}" in show(capsys, path)
    for nonsense in (b"{", b"[]", b'{"beat": "x"}', b'{"host": 1, "beat": 0, "pid": 1, "started": 0, "running": 3}'):
        store.write("a/driver.json", nonsense)
        assert tell(capsys, path)["driver"] is None


def test_the_chain_of_a_trial_says_what_is_stored_and_who_trained_it(
    store: Store, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(store, "a", [DENSE, LADDER[0]])
    write_plan(store, "a", [DENSE, LADDER[0], LONGER])
    told = tell(capsys, path, LADDER[0].name)
    trained = [part for part in told["chain"] if part["kind"] == "train"]
    assert [(p["level"], p["start"], p["end"], p["stored"]) for p in trained] == [
        (0, 0, 1, "whole"), (0, 1, 2, "whole"), (1, 1, 2, "whole"),
    ]  # fmt: skip
    assert [p["trained_by"] for p in trained] == [[DENSE.name], [DENSE.name], [LADDER[0].name]]
    assert [p["kind"] for p in told["chain"]] == ["init", "train", "train", "prune", "rewind", "train"]
    assert told["chain"][0]["stored"] == "weights" and told["chain"][-1]["sparsity_pct"] == 40
    assert told["result"]["sparsity_pct"] == 40 and told["damaged"] == [] and told["epochs_left"] == 0
    waiting = tell(capsys, path, "s78.4")
    assert [p["trained_by"] for p in waiting["chain"] if p["kind"] == "train"][2] == [LADDER[0].name]
    assert waiting["epochs_left"] == 2 and waiting["chain"][-1]["stored"] is None
    out = show(capsys, path, LADDER[0].name)
    assert "itself" in out and "test_accuracy" in out and trained[0]["key"][:12] in out


@pytest.mark.parametrize(
    "spec",
    [
        TrialSpec(schedule="iterative", epochs=6, rewind_epoch=1, target_sparsity_pct=80),
        TrialSpec(epochs=3, retrain="lr_rewinding", target_sparsity_pct=40, rewind_epoch=1),
        TrialSpec(schedule="one_shot", target_sparsity_pct=50, epochs=4, reset_end=True),
        TrialSpec(epochs=2, rewind_epoch=None, rewind_step=3, target_sparsity_pct=40),
    ],
    ids=["within a fit", "lr rewinding", "supermask", "an iteration"],
)
def test_every_kind_of_chain(store: Store, path: str, capsys: pytest.CaptureFixture[str], spec: TrialSpec) -> None:
    sweep(store, "a", [spec])
    told = tell(capsys, path, spec.name)
    assert told["status"] == "done" and told["damaged"] == []
    assert {tuple(p["trained_by"]) for p in told["chain"] if p["kind"] == "train"} == {(spec.name,)}
    assert told["chain"][-1]["stored"] == ("weights" if spec.reset_end else "whole")


def test_a_killed_trial_shows_how_far_it_came(store: Store, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(store, "a", [TrialSpec(control="dense", epochs=4)])
    run_trial(TrialSpec(control="dense", epochs=3), store, "short")
    told = tell(capsys, path, "dense")
    assert told["chain"][-1]["stored"] == "to epoch 3" and told["epochs_left"] == 1
    assert told["chain"][-1]["trained_by"] == [TrialSpec(control="dense", epochs=3).name]


def test_damage_is_named(store: Store, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(store, "a", [DENSE, OTHER])
    (Path(path) / "trials" / OTHER.name / "masks.safetensors").unlink()
    told = tell(capsys, path)
    assert statuses(told) == {DENSE.name: "done", OTHER.name: "damaged"}
    assert f"damaged: {OTHER.name}: masks.safetensors has no bytes" in show(capsys, path)
    final = json.loads(store.read(f"a/trials/{DENSE.name}/{MANIFEST}"))["states"]["final"]
    weights = next((Path(store.root) / final).glob("weights-*"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert tell(capsys, path, DENSE.name)["damaged"] == [
        f"{final}: weights.safetensors does not have the SHA-256 of the manifest"
    ]
    store.write(f"a/quarantine/{DENSE.name}-0123abcd/reason.txt", b"it was broken\n")
    assert "set aside: it was broken" in show(capsys, path, DENSE.name)
    assert f"damaged: {final}" in show(capsys, path, DENSE.name)


def test_without_kept_states_and_from_earlier_versions(
    store: Store, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(store, "a", [DENSE], policy="none")
    write_plan(store, "a", [DENSE, LADDER[0]], policy="none")
    told = tell(capsys, path)
    assert statuses(told) == {DENSE.name: "done", LADDER[0].name: "not started"}
    assert told["epochs"] == {"distinct": 5, "trained": 2, "left": 3}
    content = json.loads(store.read(f"a/{PLAN}"))
    for entry in content["trials"]:
        del entry["data"]
    store.write(f"a/{PLAN}", to_json(content))
    assert statuses(tell(capsys, path)) == {DENSE.name: "done", LADDER[0].name: "not started"}
    assert [p["kind"] for p in tell(capsys, path, "dense")["chain"]] == ["init", "train"]
    assert tell(capsys, path, "s40")["chain"] == []
    assert "earlier version" in show(capsys, path, "s40")


def test_states_of_another_fingerprint_are_no_use(store: Store, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(store, "a", [DENSE])
    plan = write_plan(store, "a", [DENSE, LADDER[0]])
    key = plan.trials[1].end.key
    about = {"kind": "state", "key": key, "complete": True, "fingerprint": {"device": "other"}}
    files = {"weights.safetensors": b"w", "training.safetensors": b"t"}
    store.seal_shared(f"{STATES}/{key}/{'0' * 12}", files, about)
    assert tell(capsys, path)["epochs"]["left"] == 2, "epoch 1 to rewind to, and the level"


def test_thousands_of_trials_are_folded(store: Store, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    specs = [
        TrialSpec(schedule="omp", target_sparsity_pct=float(pct), epochs=2, lr=lr, seed=seed)
        for pct in range(50, 90) for lr in (1e-3, 2e-3) for seed in range(5)
    ]  # fmt: skip
    write_plan(store, "a", specs)
    out = show(capsys, path)
    assert len(out.splitlines()) < 40 and "400 trials: 400 not started" in out


def test_bad_input_is_told_in_one_line(store: Store, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(store, "a", [DENSE, *LADDER])
    for argv, told in [
        ([f"{store.root}/b"], "runs there: a"),
        ([path, "densee"], DENSE.name),
        ([path, "imp"], "2 have it"),
        (["nonsense://x/y"], "nonsense"),
    ]:
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert told in error and len(error.splitlines()) == 1
    store.write(f"a/{PLAN}", b"{")
    assert main([path]) == 2
    assert "a/plan.json: not readable" in capsys.readouterr().err


def test_a_trial_that_waits_can_be_told_while_others_write(
    store: Store, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = write_plan(store, "a", [DENSE, *LADDER])
    run_trial(DENSE, store, "a", keep=Keep(states=plan.keep(plan.trials[0])))
    store.write(f"a/trials/{LADDER[0].name}/record.json", b"{}")
    store.write(f"a/trials/{LADDER[0].name}/masks.safetensors.0123abcd.part", b"")
    assert statuses(tell(capsys, f"file://{path}"))[LADDER[0].name] == "not started"
