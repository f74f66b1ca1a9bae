from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.json_files import seal_json
from lth_trainable.store.store import MANIFEST, PLAN, STATES, Store, to_json
from lth_trainable.store.trials import load_trial
from lth_trainable.training.run import Keep, run_trial
from sweeps import storage
from sweeps.storage import main
from tests.support.runs import DENSE, LADDER, LONGER, OTHER, plan_of, sweep, write_plan

HOURS_AGO = time.time() - 7200


def states(store: Store) -> set[str]:
    return {f"{STATES}/{key}/{mark}" for key in store.folders(STATES) for mark in store.folders(f"{STATES}/{key}")}


def tell(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*argv, "--json"]) == code
    return dict(json.loads(capsys.readouterr().out))


def age(path: Path) -> None:
    os.utime(path, (HOURS_AGO, HOURS_AGO))


@pytest.fixture
def junk(store: Store) -> str:
    """A complete state that no run needs."""
    folder = f"{STATES}/{'f' * 64}/{'0' * 12}"
    store.seal_shared(folder, {"weights.safetensors": b"junk"}, {"kind": "state", "key": "f" * 64, "complete": True})
    return folder


def test_du_says_what_runs_take_and_share(store: Store, junk: str, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(store, "a", [*LADDER, DENSE])
    sweep(store, "b", [DENSE, OTHER])
    store.write(f"{STATES}/quarantine/x-1/weights.bin", b"12345")
    found = tell(capsys, "du", store.root)
    a, b = found["runs"]
    assert (a["run"], a["planned"], a["recorded"], a["problem"]) == ("a", 3, 3, None)
    assert (a["states"], b["states"]) == (5, 4), "init, epochs 1 and 2, two levels; two of init and end"
    shared = {f for f in states(store) if f.split("/")[1] in {s.key for s in plan_of([DENSE]).trials[0].chain}}
    size = {f: sum(store.sizes(f).values()) for f in states(store)}
    assert a["shared_bytes"] == b["shared_bytes"] == sum(size[f] for f in shared) > 0
    assert found["unneeded"] == {"states": 1, "bytes": size[junk]} and found["quarantine_bytes"] == 5
    assert found["total"]["states_bytes"] == sum(size[f] for f in states(store) if "quarantine" not in f)
    files = [path for path in Path(store.root).rglob("*") if path.is_file()]
    assert found["total"]["bytes"] == sum(path.stat().st_size for path in files)
    assert main(["du", store.root]) == 0
    out = capsys.readouterr().out
    assert "3 of 3" in out and "states that nobody needs: 1," in out


def test_gc_deletes_what_nobody_needs_and_nothing_else(
    store: Store, junk: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(store, "a", [*LADDER, DENSE])
    sweep(store, "b", [DENSE, OTHER])
    kept = states(store) - {junk}
    before = {path for path in Path(store.root).rglob("*") if path.is_file() and STATES not in path.parts}
    assert [g["path"] for g in tell(capsys, "gc", store.root, "--dry-run")["gone"]] == [junk]
    assert states(store) == kept | {junk}
    assert [g["path"] for g in tell(capsys, "gc", store.root)["gone"]] == [junk]
    assert states(store) == kept and not store.exists(junk.rpartition("/")[0])
    assert before == {path for path in Path(store.root).rglob("*") if path.is_file() and STATES not in path.parts}
    for run, specs in {"a": [*LADDER, DENSE], "b": [DENSE, OTHER]}.items():
        for spec in specs:
            assert load_trial(f"{store.root}/{run}/trials/{spec.name}") is not None
    plan = write_plan(store, "a", [*LADDER, DENSE, LONGER])
    record = run_trial(LONGER, store, "a", keep=Keep(states=plan.keep(plan.trials[-1])))
    assert record["epochs_trained"] == 1, "one more level"


def test_a_folder_in_a_state_goes_with_it(store: Store, junk: str, capsys: pytest.CaptureFixture[str]) -> None:
    store.write(f"{junk}/more/notes.txt", b"12345")
    (gone,) = tell(capsys, "gc", store.root)["gone"]
    assert gone["path"] == junk and not store.exists(junk)


def test_a_run_that_goes_takes_only_its_own_states_along(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(store, "b", [DENSE, OTHER])
    needed = states(store)
    sweep(store, "a", [*LADDER, DENSE])
    assert states(store) > needed
    store.delete_folder("a")
    assert main(["gc", store.root]) == 0
    assert states(store) == needed
    assert "states that nobody needs" in capsys.readouterr().out


def test_a_killed_trial_keeps_the_state_it_can_go_on_from(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    spec = TrialSpec(control="dense", epochs=4)
    plan = write_plan(store, "a", [spec])
    run_trial(TrialSpec(control="dense", epochs=3), store, "short")
    store.delete_folder("short")
    assert tell(capsys, "gc", store.root)["gone"] == []
    record = run_trial(spec, store, "a", keep=Keep(states=plan.keep(plan.trials[0])))
    assert record["epochs_trained"] == 1
    inner = plan.trials[0].chain[-1].key_at(3)
    assert [g["path"].split("/")[1] for g in tell(capsys, "gc", store.root)["gone"]] == [inner], "recorded: not needed"


def test_trials_without_a_plan_and_without_shared_states_keep_theirs(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    run_trial(LADDER[0], store, "alone")
    sweep(store, "a", [TrialSpec(target_sparsity_pct=40, epochs=1, seed=2)], policy="none")
    before = states(store)
    tell(capsys, "gc", store.root)
    assert states(store) == before


def test_plans_of_earlier_versions_keep_what_their_trials_refer_to(
    store: Store, junk: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(store, "a", [DENSE])
    content = json.loads(store.read(f"a/{PLAN}"))
    del content["keep_states"], content["trials"][0]["data"]
    store.write(f"a/{PLAN}", to_json(content))
    assert [g["path"] for g in tell(capsys, "gc", store.root)["gone"]] == [junk]
    assert load_trial(f"{store.root}/a/trials/{DENSE.name}") is not None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "not readable"), (b"[1]", "not readable"), (to_json({"format": 1}), "'trials'"),
        (to_json({"format": 2, "trials": []}), "no checksum"),
        (seal_json({"format": 3, "trials": []}), "format: found 3"),
        (to_json({"format": 1, "keep_states": "some", "trials": []}), "'some'"),
        (to_json({"format": 1, "trials": [{"name": "t", "key": "k", "spec": {"mood": 1}}]}), "mood"),
        (to_json({"format": 1, "trials": [{
            "name": "t", "key": "k", "data": {"digest": "d", "n_train": 9},
            "spec": {"criterion": "tests.no_such_module:f"},
        }]}), "no_such_module"),
        (to_json({"format": 1, "trials": [{
            "name": "t", "key": "k", "data": {"digest": "d", "n_train": 9}, "spec": {},
        }]}), "expected"),
        (to_json({"format": 1, "trials": [{
            "name": "t", "key": "k", "data": {"digest": "d", "steps_per_epoch": 9}, "spec": {},
        }]}), "n_train"),
    ],
)  # fmt: skip
def test_an_unreadable_plan_refuses(
    store: Store, junk: str, capsys: pytest.CaptureFixture[str], content: bytes, told: str
) -> None:
    sweep(store, "a", [OTHER])
    before = states(store)
    store.write(f"b/{PLAN}", content)
    assert main(["gc", store.root]) == 2
    error = capsys.readouterr().err
    assert "b/plan.json" in error and told in error and len(error.splitlines()) == 1
    assert states(store) == before
    assert tell(capsys, "du", store.root)["runs"][1]["problem"]
    assert tell(capsys, "check", store.root, code=1)["damaged"][0]["path"] == "b"


def test_a_plan_that_comes_while_gc_looks_saves_its_states(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(store, "a", [OTHER])
    plan = store.read(f"a/{PLAN}")
    store.delete_folder("a")
    read, calls = storage.read_runs, []

    def later(store: Store) -> Any:
        calls.append(1)
        if len(calls) == 2:
            store.write(f"b/{PLAN}", plan)
        return read(store)

    monkeypatch.setattr(storage, "read_runs", later)
    before = states(store)
    assert tell(capsys, "gc", store.root)["gone"] == [] and states(store) == before


def test_old_leftovers_go_and_young_ones_stay(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(store, "a", [OTHER])
    folder = sorted(states(store))[0]
    unsealed, empty = f"{STATES}/{'e' * 64}/{'0' * 12}", f"{STATES}/{'d' * 64}"
    strays = [f"{folder}/weights-0123456789ab.safetensors", f"{folder}/{MANIFEST}.1234abcd.part"]
    for path in (*strays, f"{unsealed}/weights-0123456789ab.safetensors"):
        store.write(path, b"left")
    (Path(store.root) / empty).mkdir()
    store.write(f"{folder}/notes.txt", b"a person's")
    store.write(f"{STATES}/quarantine/x/weights.bin", b"12345")
    assert tell(capsys, "gc", store.root)["gone"] == [], "all of it is young"
    for path in (*strays, f"{unsealed}/weights-0123456789ab.safetensors", empty, f"{folder}/notes.txt"):
        age(Path(store.root) / path)
    gone = tell(capsys, "gc", store.root)["gone"]
    assert {g["path"] for g in gone} == {*strays, unsealed, empty}
    assert not any(store.exists(path) for path in (*strays, unsealed, empty, unsealed.rpartition("/")[0]))
    assert store.exists(f"{folder}/notes.txt") and store.exists(f"{STATES}/quarantine/x/weights.bin")
    assert tell(capsys, "check", store.root)["damaged"] == []


def test_a_folder_sealed_since_the_listing_stays(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = plan_of([OTHER]).trials[0]
    write_plan(store, "a", [OTHER])
    folder = f"{STATES}/{spec.end.key}/{'0' * 12}"
    store.write(f"{folder}/weights-0123456789ab.safetensors", b"left")
    age(Path(store.root) / folder / "weights-0123456789ab.safetensors")
    sweep_folder = storage._sweep

    def overtaken(store: Store, path: str, runs: Any) -> Any:
        store.seal_shared(folder, {"weights.safetensors": b"new"}, {"complete": True})
        return sweep_folder(store, path, runs)

    monkeypatch.setattr(storage, "_sweep", overtaken)
    tell(capsys, "gc", store.root)
    assert store.find(folder) is not None


def test_check_finds_what_is_altered_truncated_and_missing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(store, "a", [*LADDER, DENSE])
    found = tell(capsys, "check", store.root)
    assert (found["states"], found["trials"], found["damaged"]) == (5, 3, [])
    root = Path(store.root)
    by_key = {folder.split("/")[1]: root / folder for folder in states(store)}
    chain = [s.key for s in plan_of(LADDER).trials[1].chain if s.kind in ("init", "train")]
    weights = [next(by_key[key].glob("weights-*")) for key in chain[:3]]
    content = bytearray(weights[0].read_bytes())
    content[-1] ^= 1
    weights[0].write_bytes(content)
    weights[1].write_bytes(content[:100])
    weights[2].unlink()
    (root / "a" / "trials" / DENSE.name / "record.json").write_text("{}")
    (by_key[chain[3]] / MANIFEST).write_text("{")
    reasons = {e["path"]: e["reason"] for e in tell(capsys, "check", store.root, code=1)["damaged"]}
    told = [reasons[f"{STATES}/{key}/{by_key[key].name}"] for key in chain[:4]]
    assert "SHA-256" in told[0] and "100 bytes" in told[1] and "no bytes" in told[2] and "unreadable" in told[3]
    assert "record.json has 2 bytes" in reasons[f"a/trials/{DENSE.name}"] and len(reasons) == 5
    assert main(["check", store.root]) == 1
    assert "rerun the sweep's command" in capsys.readouterr().out


def test_check_finds_a_trial_whose_weights_are_gone(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(store, "a", [OTHER])
    gone = sorted(states(store))[0]
    store.delete_folder(gone)
    (entry,) = tell(capsys, "check", store.root, code=1)["damaged"]
    assert entry == {"path": f"a/trials/{OTHER.name}", "reason": f"its weights {gone} are missing"}


def test_bad_input_is_told_in_one_line(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(store, "a", [OTHER])
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere", tmp_path / "file", Path(store.root) / "a", "nonsense://x"):
        for action in ("du", "gc", "check"):
            assert main([action, str(path)]) == 2
            assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(SystemExit) as ended:
        main(["eat", store.root])
    assert ended.value.code == 2


def test_a_storage_by_uri_and_listings_that_are_overtaken(
    store: Store, junk: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(store, "a", [OTHER])
    whole = {(info.path, info.size) for info in store.walk("")}
    selector = fs.FileSelector

    def overtaken(base: str, recursive: bool = False, **more: Any) -> Any:
        if recursive:
            raise FileNotFoundError(base)
        return selector(base, recursive=recursive, **more)

    monkeypatch.setattr(fs, "FileSelector", overtaken)
    assert {(info.path, info.size) for info in store.walk("")} == whole
    assert [g["path"] for g in tell(capsys, "gc", f"file://{store.root}")["gone"]] == [junk]
