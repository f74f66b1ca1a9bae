"""Nodes die and join at random moments, the driver's own among them: what is stored stays, and the bytes are right."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import time
from pathlib import Path

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.run import run_trial
from tests.support.command import ONE_WORKER
from tests.support.nodes import Nodes, ended, killed, nodes

pytest.importorskip("aiohttp", reason="for the cluster extra")

ARGUMENTS = ["digits", "--controls", "none", "--epochs", "20", "--sparsity", "64", "87.04", "--rewind-epoch", "0"]
DIES, JOINS, DRIVER, BOTH = "a node dies", "a node joins", "the driver is killed", "the driver's node dies with it"
ALL = "all nodes die with the driver, and another joins"


def sealed(storage: Path) -> dict[str, float]:
    """Each stored state with the time at which its manifest was written."""
    found = {}
    for path in (storage / "states").glob("*/*/manifest.json"):
        if "passing" not in path.parent.name:  # a temporary state, which goes again
            with contextlib.suppress(FileNotFoundError):
                found[path.parent.parent.name] = path.stat().st_mtime
    return found


def more_is_stored(storage: Path, number: int, driver: subprocess.Popen[str]) -> bool:
    """Wait until so many more states are stored; False where the sweep has ended before."""
    deadline, before = time.monotonic() + 240, len(sealed(storage))
    while len(sealed(storage)) < before + number:
        if driver.poll() is not None:
            return False
        assert time.monotonic() < deadline, "the sweep makes no progress"
        time.sleep(0.05)
    return True


def strike(made: Nodes, what: str, where: str, driver: subprocess.Popen[str], rng: random.Random) -> None:
    """One of the five; there is always a node left to train on. where: the driver's node."""
    old = sorted(made.alive)
    others = [name for name in old if name != where]
    if what in (JOINS, ALL) or not others:
        made.add()
    if what in (DRIVER, BOTH, ALL):
        driver.kill()
        driver.communicate()
    if what in (BOTH, ALL):
        for name in [where] if what == BOTH else old:
            made.kill(name)
    elif what == DIES and others:
        made.kill(rng.choice(others))


def campaign(
    made: Nodes, storage: Path, arguments: list[str], blows: list[str], rng: random.Random
) -> dict[str, float]:
    """Run the command to its end through all blows; returns the states that were stored at each of them."""
    kept: dict[str, float] = {}
    where = rng.choice(sorted(made.alive))
    driver = made.driver(where, *arguments, "--storage", str(storage))
    try:
        for what in blows:
            if not more_is_stored(storage, rng.randrange(1, 3), driver):
                break
            time.sleep(rng.random() * 0.3)
            kept = {**sealed(storage), **kept}
            strike(made, what, where, driver, rng)
            if what in (DRIVER, BOTH, ALL):
                where = rng.choice(sorted(set(made.alive) - {where}))
                beat = json.loads((storage / "digits" / "driver.json").read_text())["beat"]
                while time.time() < beat + 4:  # until the other machine's driver counts as dead
                    time.sleep(0.2)
                driver = made.driver(where, *arguments, "--storage", str(storage))
        assert ended(driver)["failed"] == 0
    finally:
        killed(driver)
    return kept


def check(storage: Path, fresh: Store, kept: dict[str, float], trials: int) -> None:
    """All trials are there, each as if trained alone, and no state that was stored has been written again."""
    now = sealed(storage)
    assert {key: now[key] for key in kept} == kept, "a stored state was written again"
    assert not list(storage.glob("**/quarantine/*")), "no write was torn"
    records = [json.loads(path.read_text()) for path in (storage / "digits" / "trials").glob("*/record.json")]
    assert len(records) == trials
    for record in records:
        assert run_trial(TrialSpec(**record["spec"]), fresh)["sha256"] == record["sha256"]


@pytest.mark.slow
def test_when_the_whole_cluster_is_replaced_the_sweep_ends_as_if_nothing_had_happened(
    tmp_path: Path, store: Store
) -> None:
    with nodes(1) as made:
        arguments = [*ARGUMENTS, "--seeds", "1", *ONE_WORKER]
        kept = campaign(made, tmp_path / "r", arguments, [ALL], random.Random(1))
    assert kept, "nothing was stored before the blow"
    check(tmp_path / "r", store, kept, trials=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_many_nodes_die_and_join(tmp_path: Path, store: Store, seed: int) -> None:
    rng = random.Random(seed)
    blows = rng.choices([DIES, JOINS, DRIVER, BOTH, ALL], weights=[8, 6, 4, 4, 1], k=12)
    with nodes(2) as made:
        kept = campaign(made, tmp_path / "r", [*ARGUMENTS, "1", "--seeds", "4"], blows, rng)
    check(tmp_path / "r", store, kept, trials=20)
