"""The command as a user runs it: a process of its own, started from the folder of the repository."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ONE_WORKER = ("--max-concurrent", "1")  # each worker imports torch and fastai first: a sweep of seconds needs no second


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sweeps.lth_grid", *arguments]


def command_without_retries(*arguments: str) -> list[str]:
    """The same without second attempts at a trial that fails: for each of them a new worker has to start."""
    code = "import sys; from sweeps import lth_grid; from sweeps.running import launch; launch.RETRIES = 0"
    return [sys.executable, "-c", f"{code}; sys.exit(lth_grid.main(sys.argv[1:]))", *arguments]


def with_controls(arguments: Sequence[str]) -> tuple[str, ...]:
    """The arguments, without the controls that the recipe has by itself unless they name some: they take time."""
    return (*arguments, *(() if "--controls" in arguments else ("--controls", "none")))


def grid(
    storage: Path, *arguments: str, command: Callable[..., list[str]] = command, timeout: float = 300
) -> tuple[int, dict[str, Any], str, str]:
    """Exit code, the JSON of the last line, standard output and error."""
    done = subprocess.run(
        command("digits", *with_controls(arguments), "--storage", str(storage), "--json"),
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=timeout,
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    return done.returncode, json.loads(last) if last.startswith("{") else {}, done.stdout, done.stderr


def hashes(storage: Path, run: str = "digits") -> dict[str, Any]:
    """Of the sealed trials: what a killed process had begun to write has no manifest."""
    folders = [path.parent for path in (storage / run / "trials").glob("*/manifest.json")]
    return {folder.name: json.loads((folder / "record.json").read_text())["sha256"] for folder in folders}


@contextlib.contextmanager
def running(storage: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("digits", *with_controls(arguments), "--storage", str(storage), "--json"), cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_trials(storage: Path, number: int) -> None:
    deadline = time.monotonic() + 240
    while len(list((storage / "digits" / "trials").glob("*/manifest.json"))) < number:
        assert time.monotonic() < deadline, "the sweep makes no progress"
        time.sleep(0.1)


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(number)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]
