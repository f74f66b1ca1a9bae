"""`python -m sweeps.barrier`: copies trained in parallel by Ray, killed and started again, are those trained alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analysis.__main__ import main
from tests.support.command import ROOT
from tests.support.mirror import TICKETS, train_lenets
from tests.support.runs import copied

pytestmark = pytest.mark.slow


def command(run: Path) -> list[str]:
    return [sys.executable, "-m", "sweeps.barrier", str(run), TICKETS[64.0].name, "--points", "3", "--json",
            "--order-seeds", "1", "2", "3", "4", "--max-concurrent", "2"]  # fmt: skip


def copies(run: Path) -> dict[str, bytes]:
    """Of the sealed copies: what a killed process had begun to write has no manifest."""
    folders = [path.parent for path in (run / "barriers" / "copies").glob("*/manifest.json")]
    return {f"{f.name}/{path.name}": path.read_bytes() for f in folders for path in f.iterdir()}


def test_a_killed_command_goes_on_with_the_copies_that_are_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_lenets(tmp_path / "runs")
    alone = copied(run, tmp_path / "alone")
    assert main(["barrier", *command(alone)[3:-2]]) == 0
    expected = json.loads(capsys.readouterr().out)

    process = subprocess.Popen(
        command(run), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while not copies(run) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = copies(run)
    assert kept, "at least one copy was finished"

    done = subprocess.run(command(run), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert copies(run) == copies(alone)
    assert kept.items() <= copies(run).items()
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["rows"] == expected["rows"]
    assert json.loads((run / "plan.json").read_bytes()) == json.loads((alone / "plan.json").read_bytes())
    assert sorted(p.name for p in (run / "trials").iterdir()) == sorted(p.name for p in (alone / "trials").iterdir())

    again = subprocess.run(command(run), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0
    assert "all of them stored" in again.stderr
    assert len(list((run / "barriers" / "ray").iterdir())) <= 2, "Ray has not started a third time"
