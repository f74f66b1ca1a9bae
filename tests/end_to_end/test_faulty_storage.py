"""S3 through a network that loses, cuts, spoils and resets: no damaged result is accepted, no sound one thrown away."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import STATES, Store
from lth_trainable.store.trials import finished_trials
from lth_trainable.training.run import run_trial
from tests.support.command import ONE_WORKER, ROOT, command
from tests.support.faulty_proxy import ALL, ERROR, FLIPPED, RESET, FaultyProxy
from tests.support.s3 import s3_server, storage

pytest.importorskip("boto3", reason="for the test extra")
pytest.importorskip("moto.server", reason="for the test extra")

SPEC = TrialSpec(target_sparsity_pct=64, epochs=2)
SEEDS = (1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 2)))
OUTAGE_SECONDS = 60


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


def check_sound(store: Store) -> int:
    """Read everything that is sealed, without faults; returns the number of files. Nothing was thrown away."""
    assert not store.folders(f"{STATES}/quarantine")
    number = 0
    for key in store.folders(STATES):
        for mark in store.folders(f"{STATES}/{key}"):
            folder = store.find(f"{STATES}/{key}/{mark}")
            assert folder is not None, "a folder without a manifest was left"
            number += len([store.content(folder, name) for name in folder.manifest["files"]])
    return number


@pytest.mark.parametrize("seed", SEEDS)
def test_a_trial_through_a_bad_network_is_the_trial_without_it(server: str, store: Store, seed: int) -> None:
    """Of all requests a sixth meets one of the six faults. What was stored before is used: nothing is trained twice."""
    alone = run_trial(SPEC, store)
    name = f"trial{seed}"
    with FaultyProxy(server, dict.fromkeys(ALL, 0.028), seed).running() as proxy:
        for run in ("first", "second"):
            through = run_trial(SPEC, Store(storage(proxy.address, name)).in_use(), run)
            assert through["sha256"] == alone["sha256"]
            assert through["epochs_trained"] == (alone["epochs_trained"] if run == "first" else 0)
        assert len(proxy.met) > 4, proxy.met
    sound = Store(storage(server, name))
    assert check_sound(sound) > 5
    for run in ("first", "second"):
        [(_, record)] = finished_trials(sound, run)
        assert record["sha256"] == alone["sha256"]


def sweep(address: str, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("digits", "--epochs", "20", "--sparsity", "64", "87.04", "--rewind-epoch", "0", "1", "--seeds", "2",
                "--controls", "none", *ONE_WORKER, "--storage", storage(address, name), "--json", *arguments),
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=700,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_sweep_through_a_bad_network_gives_what_it_gives_without(server: str, store: Store, seed: int) -> None:
    """Where it does not end at once, it says why in one line, and the same command goes on."""
    name = f"sweep{seed}"
    with FaultyProxy(server, dict.fromkeys(ALL, 0.005), seed).running() as proxy:
        for _ in range(4):
            done = sweep(proxy.address, name)
            if done.returncode == 0:
                break
            assert done.returncode == 1 and "Traceback" not in done.stderr, done.stdout + done.stderr
            assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(proxy.met) > 4, proxy.met
    check_results(Store(storage(server, name)), store)


@pytest.mark.slow
def test_an_outage_of_a_minute_does_no_harm(server: str, store: Store) -> None:
    with FaultyProxy(server, {ERROR: 0.01, RESET: 0.01, FLIPPED: 0.005}, seed=9).running() as proxy:

        def outage() -> None:
            sound = Store(storage(server, "outage"))
            while len(sound.folders(STATES)) < 3:
                time.sleep(0.2)
            proxy.is_out = True
            time.sleep(OUTAGE_SECONDS)
            proxy.is_out = False

        thread = threading.Thread(target=outage)
        thread.start()
        done = sweep(proxy.address, "outage")
        thread.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.strip().splitlines()[-1])["failed"] == 0
    check_results(Store(storage(server, "outage")), store)


def check_results(sound: Store, fresh: Store) -> None:
    check_sound(sound)
    assert not sound.folders("digits/quarantine")
    records = [record for _, record in finished_trials(sound, "digits")]
    assert len(records) == 10
    for record in records:
        assert run_trial(TrialSpec(**record["spec"]), fresh)["sha256"] == record["sha256"]


def test_the_faults_are_the_same_each_time() -> None:
    draws = [
        [FaultyProxy("127.0.0.1:1", dict.fromkeys(ALL, 0.1), seed=3).fault("GET", f"/a/{n % 7}") for n in range(50)]
        for _ in range(2)
    ]
    assert draws[0] == draws[1] and len({kind for kind, _ in draws[0]}) > 3
