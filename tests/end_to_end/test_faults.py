"""kill -9 at random moments: the same command ends with the results of an undisturbed sweep, and nothing that was
stored is trained again: the time of each state's manifest is the witness."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lth_trainable.errors import UserError
from sweeps.running.ray_process import clear_away, start_ray
from tests.support import disturb
from tests.support.command import ONE_WORKER, ROOT, hashes
from tests.support.disturb import RAYLET, WORKER, finish, processes_of, sealed, send, until

ARGUMENTS = [
    "digits", "--controls", "none", "--epochs", "20", "--sparsity", "64", "87.04", "--rewind-epoch", "0", "1",
    "--seeds", "3",
]  # fmt: skip
KILLS = 20


def start(storage: Path, *more: str) -> subprocess.Popen[str]:
    return disturb.start(storage, *ARGUMENTS, *more)


def test_a_ray_that_does_not_start_at_once_is_started_again_and_then_told_of() -> None:
    """On a busy machine its processes may take longer than the half minute that Ray has for them."""
    began: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        began.append(options)
        if len(began) != slow:
            raise Exception("The current node timed out during startup.\nand more")

    ray = SimpleNamespace(init=init, shutdown=lambda: None)
    slow = 2
    start_ray(ray)
    assert len(began) == 2 and began[0]["address"] == "local"
    first, second = (Path(options["_temp_dir"]).parent for options in began)
    assert second.is_dir() and not first.exists()
    clear_away()
    assert not second.exists()
    slow = 0
    with pytest.raises(
        UserError, match=r"no Ray that starts on this machine \(Exception: The current node .*startup.\)"
    ):
        start_ray(ray)
    assert len(began) == 4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    storage = tmp_path_factory.mktemp("undisturbed")
    finish(start(storage, *ONE_WORKER))
    return hashes(storage)


def storm(storage: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill workers, the driver or both at random moments, then let the command end; returns its summary."""
    while kills > 0:
        process = start(storage)
        before = len(sealed(storage))
        try:
            while kills > 0 and process.poll() is None:
                more = rng.randrange(1, 4)
                until(lambda wanted=before + more: len(sealed(storage)) >= wanted, process)
                time.sleep(rng.random() * 0.2)
                kept = sealed(storage)
                victim = rng.choice(["a worker", "the driver", "both"])
                if victim != "the driver":
                    workers = processes_of(process, WORKER)
                    send(rng.sample(workers, k=min(1, len(workers))))
                kills -= 1
                if victim != "a worker":
                    process.kill()
                    process.communicate()
                    break
                before = len(kept)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        again = sealed(storage)
        assert {key: again[key] for key in kept if key in again} == {k: t for k, t in kept.items() if k in again}, (
            "a stored state was written again"
        )
        if len(list((storage / "digits" / "trials").glob("*/manifest.json"))) == 15:
            break
    return finish(start(storage))


@pytest.mark.parametrize("kills", [1, pytest.param(KILLS, marks=pytest.mark.slow)])
def test_killed_at_random_moments_a_sweep_ends_as_an_undisturbed_one(
    tmp_path: Path, undisturbed: dict[str, Any], kills: int
) -> None:
    rng = random.Random(kills)
    summary = storm(tmp_path, kills, rng)
    assert summary["done"] == summary["planned"] == 15
    assert hashes(tmp_path) == undisturbed
    assert not list(tmp_path.glob("states/quarantine/*")), "no write was torn"


@pytest.mark.slow
def test_when_rays_own_processes_die_the_command_says_so_and_goes_on_later(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    process = start(tmp_path)
    assert until(lambda: len(sealed(tmp_path)) >= 2, process)
    send(processes_of(process, RAYLET))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "Ray's own processes on this machine died (raylet)" in err
    finish(start(tmp_path))
    assert hashes(tmp_path) == undisturbed


@pytest.mark.slow
def test_two_drivers_on_one_storage_do_not_harm_each_other(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """Two runs of the same trials, at once: both train, both end with the same bytes."""
    first = start(tmp_path, *ONE_WORKER)
    second = start(tmp_path, *ONE_WORKER, "--name", "other")
    finish(first)
    finish(second)
    assert hashes(tmp_path) == undisturbed == hashes(tmp_path, "other")
    assert not list(tmp_path.glob("**/quarantine/*"))


TIGHT = """
mount -t tmpfs -o size=2m tmpfs "$1"
"$2" -m sweeps.lth_grid digits --controls none --epochs 1 --sparsity 64 87.04 --rewind-epoch 0 --seeds 2 --storage "$1"
echo "exit $?, $(find "$1" -name '*.part' | wc -l) parts"
mount -o remount,size=100m tmpfs "$1"
"$2" -m sweeps.lth_grid digits --controls none --epochs 1 --sparsity 64 87.04 --rewind-epoch 0 --seeds 2 \
    --storage "$1" --json
"""


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_with_more_space_the_same_command_goes_on(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("mount namespaces need privileges")
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", TIGHT, "-", str(tmp_path), sys.executable], cwd=ROOT, capture_output=True,
        text=True, check=False, timeout=280,
    )  # fmt: skip
    assert "exit 1, 0 parts" in done.stdout, done.stdout + done.stderr
    assert re.match(r"error: storage \S+: found no space left at ", done.stderr) and done.stderr.count("\n") == 1, (
        done.stderr
    )
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    assert summary["done"] == 6 and 0 < summary["epochs_trained"] < summary["epochs_distinct"]


VANISHES = """
mount -t tmpfs -o size=100m tmpfs "$1"
"$2" -m sweeps.lth_grid digits --epochs 40 --sparsity 64 --seeds 6 --storage "$1/runs" > "$4/out" 2> "$4/err" &
until ls "$1"/runs/states/*/*/manifest.json > "$4/seen" 2>&1; do sleep 0.1; done
if [ "$3" = "read-only" ]; then until mount -o remount,ro tmpfs "$1"; do sleep 0.01; done; else umount -l "$1"; fi
began=$(date +%s); wait $!; echo "exit $? after $(( $(date +%s) - began )) s"; find "$1" -name failure.json
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "found"), [("read-only", "a file system that is read-only"), ("unmounted", "any more")]
)
def test_a_storage_that_fails_in_mid_run_ends_the_sweep_at_once_with_one_line(
    tmp_path: Path, what: str, found: str
) -> None:
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("mount namespaces need privileges")
    storage = tmp_path / "storage"
    storage.mkdir()
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", VANISHES, "-", str(storage), sys.executable, what, str(tmp_path)], cwd=ROOT,
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    told = (tmp_path / "err").read_text()
    ended = re.fullmatch(r"exit 1 after (\d+) s\n", done.stdout)
    assert ended and int(ended[1]) < 60, done.stdout + done.stderr + told
    assert told.startswith(f"error: storage {storage}/runs: found ") and found in told and told.count("\n") == 1, told
