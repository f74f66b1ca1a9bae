"""A sweep and its resume on an object store: moto's server speaks the S3 protocol on the loopback."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis.tables import index, records
from analysis.tables import parquet as frames
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import RECORD as RECORD_FILE
from lth_trainable.store.store import Store, to_json
from lth_trainable.store.trials import load_trial, open_run
from lth_trainable.training.run import run_trial
from sweeps.lth_grid import main
from sweeps.running.log_feed import Loggers
from sweeps.search.searches import find_search
from sweeps.search.study import Study
from tests.support.command import ONE_WORKER, ROOT, command
from tests.support.curves import RECORD, ROWS, SPEC, check_curves, curves
from tests.support.records import ladder, plan, record
from tests.support.s3 import BUCKET, s3_server

boto3 = pytest.importorskip("boto3", reason="for the test extra")
pytest.importorskip("moto.server", reason="for the test extra")

SMALL = ["digits", "--controls", "none", "--epochs", "1", "--sparsity", "40", "--rewind-epoch", "0", "--json"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of an S3 server with one bucket; the environment has what it takes to use it, as on a real cluster."""
    with s3_server() as address:
        yield address


def objects(server: str, prefix: str) -> dict[str, str]:
    """ETag by name of the objects below a prefix."""
    pages = boto3.client("s3", endpoint_url=f"http://{server}").get_paginator("list_objects_v2")
    found = pages.paginate(Bucket=BUCKET, Prefix=prefix)
    return {entry["Key"]: entry["ETag"] for page in found for entry in page.get("Contents", [])}


def sweep(storage: str, *arguments: str, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        command(*SMALL, *arguments, *ONE_WORKER, "--storage", storage),
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=300, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def records_of(run: str) -> list[dict[str, Any]]:
    store, name = open_run(run)
    return [json.loads(store.read(f"{name}/trials/{trial}/record.json")) for trial in store.folders(f"{name}/trials")]


def test_a_sweep_and_its_resume_on_s3_give_what_a_folder_gives(server: str, tmp_path: Path) -> None:
    storage = f"s3://{BUCKET}/lab/runs"
    environment = {"AWS_ENDPOINT_URL": f"http://{server}"}
    summary = sweep(storage, "--seeds", "1", **environment)
    assert (summary["run"], summary["done"], summary["epochs_trained"]) == (f"{storage}/digits", 2, 2)
    before = objects(server, "lab/runs/digits/trials") | objects(server, "lab/runs/states")
    assert {name.split("/")[2] for name in before} == {"digits", "states"}
    summary = sweep(storage, "--seeds", "2", **environment)
    assert (summary["skipped"], summary["done"], summary["epochs_trained"]) == (2, 4, 2)
    after = objects(server, "lab/runs/digits/trials") | objects(server, "lab/runs/states")
    assert {name: after[name] for name in before} == before, "what is stored is not written again"
    assert "lab/runs/digits/report.html" in objects(server, "lab/runs/digits/report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", environment["AWS_ENDPOINT_URL"])
        found = records_of(f"{storage}/digits")
    assert len(found) == 4
    for stored in found:
        assert run_trial(TrialSpec(**stored["spec"]), Store(tmp_path))["sha256"] == stored["sha256"]


@pytest.mark.slow
def test_an_endpoint_in_the_uri_stays_with_every_path_made_from_it(server: str) -> None:
    connection = f"endpoint_override={server}&scheme=http"
    storage = f"s3://{BUCKET}/uri/runs?{connection}"
    summary = sweep(storage, "--seeds", "1")
    run = f"s3://{BUCKET}/uri/runs/digits?{connection}"
    assert (summary["run"], summary["done"]) == (run, 2)
    trials = analysis.load(run).trials
    assert len(trials) == 2
    name = trials.trial[0]
    assert load_trial(f"s3://{BUCKET}/uri/runs/digits/trials/{name}?{connection}") is not None
    store = Store(storage)
    assert (store.at("a/b"), store.root) == (f"s3://{BUCKET}/uri/runs/a/b?{connection}", f"{BUCKET}/uri/runs")


def test_what_loggers_leave_is_copied_to_the_bucket(server: str, tmp_path: Path) -> None:
    store = Store(f"s3://{BUCKET}/logs?endpoint_override={server}&scheme=http")
    for content in ({**RECORD, "epochs": ROWS[:3]}, RECORD):  # the second replaces the first
        with Loggers.open(["tensorboard"], store, "r").running() as told_of:
            told_of.recorded(SPEC, content)
        assert told_of.notes == []
    folder = f"r/tensorboard/{SPEC.name}"
    for name in store.sizes(folder):
        (tmp_path / name).write_bytes(store.read(f"{folder}/{name}"))
    check_curves(curves(tmp_path), RECORD)


@pytest.mark.usefixtures("without_report")
def test_gathering_reads_only_what_is_new_and_writes_parts(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = f"s3://{BUCKET}/gather?endpoint_override={server}&scheme=http"
    store, specs = Store(storage), ladder(64, seeds=3)
    store.write("run/plan.json", to_json(plan(specs)))
    read: list[str] = []
    real = records.read_trial
    monkeypatch.setattr(records, "read_trial", lambda *given: (read.append(given[2]), real(*given))[1])
    monkeypatch.setattr(index, "SETTLED_NS", -(10**15))  # objects cannot be made to look old
    for number, (spec, part_rows) in enumerate(zip(specs, (1_000_000, 7, 1_000_000), strict=True), 1):
        content = record(spec, 0.9)
        store.seal(f"run/trials/{spec.name}", {RECORD_FILE: to_json(content)}, {"key": content["key"], "states": {}})
        monkeypatch.setattr(frames, "PART_ROWS", part_rows)
        read.clear()
        gathered = analysis.gather(store.at("run"))
        assert read == [spec.name]
        assert (gathered.trials.status == "done").sum() == number
        assert analysis.as_rows(analysis.load(store.at("run")).layers) == analysis.as_rows(gathered.layers)
        layers = list(objects(server, "gather/run/analysis/layers"))
        assert len(layers) == (3 if part_rows == 7 else 1) and len(gathered.layers) == 9 * number


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("s3://no-such-bucket/runs", "no-such-bucket"),
        ("nonsense://somewhere", "nonsense"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused(
    server: str, storage: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server}")
    monkeypatch.setattr("sweeps.cli.job.launch", lambda *_: pytest.fail("Ray would start"))
    assert main([*SMALL, "--storage", storage]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: storage: ") and message in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_damaged_object_is_set_aside_and_trained_again(server: str) -> None:
    storage = f"s3://{BUCKET}/damage?endpoint_override={server}&scheme=http"
    sweep(storage, "--seeds", "1")
    store = Store(storage)
    kept = [stored["sha256"] for stored in records_of(store.at("digits"))]
    (trial, *_) = store.folders("digits/trials")
    store.write(f"digits/trials/{trial}/record.json", b"cut")
    assert sweep(storage, "--seeds", "1")["shared"] == 1, "recorded again from its states"
    assert [stored["sha256"] for stored in records_of(store.at("digits"))] == kept
    assert len(store.folders("digits/quarantine")) == 1


def test_a_study_in_a_bucket_goes_on_in_another_process(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server}")
    search = find_search("digits_search").check()
    first = Study(search, Store(f"s3://{BUCKET}/searches"), "digits_search")
    asked, left_open = first.ask(), first.ask()
    first.tell(asked.number, {"accuracy": 0.9, "sparsity": 80.0})
    second = Study(search, Store(f"s3://{BUCKET}/searches"), "digits_search")  # the first was killed
    assert [(t.number, t.state.name) for t in second.trials()] == [(0, "COMPLETE"), (1, "WAITING")]
    assert second.ask() == left_open
