"""Where a command runs, and how it is submitted to a cluster as a Ray job.

* without `--cluster` and `--address`: on this machine, with Ray started for this command;
* `--address http://head:8265`: submitted to that job server; any other `--address`: here, as driver of that cluster;
* `--cluster FILE`: if this process is on a cluster (in a Ray job, where Ray sets RAY_ADDRESS, or on a machine where
  `ray start` has started a node whose head answers), here, as the driver of that cluster; otherwise the cluster of FILE
  is started, unless it is running, and the command is submitted to it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lth_trainable import signals
from lth_trainable.errors import FAILED, OK, UserError, bad_value, unknown_name
from lth_trainable.safe_text import one_line
from sweeps.running.loggers import PASSED_ON, check_environment
from sweeps.running.ray_adapter import address_of_local_node, node_providers, use_own_token
from sweeps.running.ray_process import no_entry

ROOT = Path(__file__).resolve().parents[2]
# not in the copy of the working directory that a job gets
LEFT_OUT = ["/.?*", "/runs", "/build", "*.egg-info", "__pycache__"]
CONNECT_SECONDS = 2.0
TUNNEL_SECONDS = 60.0
START_SECONDS, NOT_YET = 120.0, "No available agent"  # what a job server says when it has just started
STOP_SECONDS = 120  # for a job that is stopped to store what it has, in a minute, and to gather its results
LOUD = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env")
NEEDED = {"aiohttp": "the job server", "requests": "the job server", "colorful": "the launcher"}
LAUNCHER_FILE = "a Ray cluster launcher file, such as cluster.yaml"
MAKE_TOKEN = "make it with: (umask 077; ray get-auth-token --generate > /dev/null)"
OLDER = {"min_workers", "head_node", "worker_nodes"}  # of older files, which Ray still accepts


class Where(Enum):
    """Where the driver of a command runs."""

    LOCAL = auto()
    CONNECT = auto()
    SUBMIT = auto()


@dataclass(frozen=True, kw_only=True)
class Target:
    """The flags that decide where a command runs: `--cluster`, `--address` and `--storage`."""

    cluster: Path | None = None
    address: str | None = None
    storage: str = "runs"

    @property
    def is_this_machine(self) -> bool:
        return self.cluster is None and self.address is None


def where_of(target: Target) -> Where:
    """Where the driver of this command runs, by the rules at the top of this module."""
    if target.address:
        return Where.SUBMIT if _is_job_server(target.address) else Where.CONNECT
    if target.cluster is None:
        return Where.LOCAL
    return Where.CONNECT if _is_in_a_cluster() else Where.SUBMIT


def _is_job_server(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _is_in_a_cluster() -> bool:
    address = os.environ.get("RAY_ADDRESS", "")
    if address:
        return not _is_job_server(address)
    left = address_of_local_node()  # by `ray start`; the Ray of a local sweep leaves none
    host, _, port = (left or "").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def submit(target: Target, command: str, arguments: Sequence[str]) -> int:
    """Run `python -m COMMAND ARGUMENTS` as a job and print its log. Returns the job's exit code."""
    check_submittable(target)
    if target.address:
        return run_job(target.address, command, [*without(arguments, "--address"), "--address", "auto"])
    assert target.cluster is not None
    try:
        with brought_up(target.cluster) as address:
            return run_job(address, command, arguments)
    finally:
        print(
            f"the cluster stays up (only idle workers are removed); shut it down with: ray down {target.cluster}",
            file=sys.stderr,
        )


def check_submittable(target: Target) -> None:
    """Raise `UserError` for a command that cannot be submitted from here, before anything costs money."""
    check_environment()
    missing = {name: whose for name, whose in NEEDED.items() if not _is_installed(name)}
    if missing:
        raise UserError(
            f"cluster: {', '.join(missing)} not found, needed by {' and '.join(sorted(set(missing.values())))}; "
            "pip install 'lottery-sweep[cluster]'"
        )
    if "://" not in target.storage and not Path(target.storage).is_absolute():
        raise bad_value(
            "storage", target.storage, "an absolute path that all nodes share, or s3:// or gs://",
            "a job has its own working directory, which is deleted with it",
        )  # fmt: skip
    if target.cluster is not None and not target.address:
        check_launcher_file(target.cluster)


def _is_installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def without(arguments: Sequence[str], flag: str) -> list[str]:
    """The arguments without a flag and its value."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == flag:
            next(rest, None)
        elif not argument.startswith(f"{flag}="):
            kept.append(argument)
    return kept


def check_is_sent(file: str) -> None:
    """Raise `UserError` unless a job finds this file under the same name in its copy of the working directory."""
    here = _sent_folder()
    if Path(file).is_absolute() or (here / file).resolve() != Path(file).resolve():
        raise bad_value("recipe", file, f"a file in {here}, named from there", "a job gets a copy of that folder only")


def _sent_folder() -> Path:
    """The folder that a job gets a copy of: the source tree, or the current folder if the package is installed."""
    return ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()


# -- the job ---------------------------------------------------------------------------------------------------------


def run_job(address: str, command: str, arguments: Sequence[str]) -> int:
    """Submit the command, print its log, wait for its end. A signal stops the job, which keeps what it has trained."""
    import asyncio

    client = _client(address)
    entrypoint = shlex.join(["python", "-m", command, *arguments])
    here = _sent_folder()
    job = _submitted(
        client,
        entrypoint=f"exec {entrypoint}",  # no shell in between: at a signal it would end before the sweep
        runtime_env={"working_dir": str(here), "excludes": LEFT_OUT, "env_vars": _environment()},
    )
    print(f"job {job} at {address}", file=sys.stderr, flush=True)

    def stop(name: str) -> None:
        print(f"{signals.words(name)}: the job stops, and what is trained is kept", file=sys.stderr, flush=True)
        signals.said()
        client.stop_job(job)

    try:
        with signals.asking(stop):
            asyncio.run(_stream(client, job))
            code = _exit_code(client, job)
        return code if signals.came() is None else signals.exit_code(str(signals.came()))
    except Exception as error:  # network errors, from any of three libraries
        reason = one_line(f"{type(error).__name__}: {error}".splitlines()[0])
        print(
            f"error: lost the job server ({reason}); the job itself continues: ray job logs --follow {job}",
            file=sys.stderr,
        )
        return FAILED


def _client(address: str) -> Any:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except AuthenticationError as error:
        raise no_entry(address) from error
    except (ConnectionError, RuntimeError) as error:
        raise UserError(
            f"address: no job server answers at {address} ({str(error).strip().splitlines()[0]}); expected that of a "
            "running head, such as http://head:8265; `ray start --head` starts one"
        ) from error
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return client


def _submitted(client: Any, **job: Any) -> str:
    """Submit a job; returns its id. Retries for a while: a head that has just started refuses jobs for some seconds."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return str(client.submit_job(**job))
        except RuntimeError as error:
            if NOT_YET not in str(error) or time.monotonic() > deadline:
                raise UserError(f"address: the job server refuses the job: {str(error).strip()}") from error
        time.sleep(1)


def _environment() -> dict[str, str]:
    """Environment variables of the job, with the size of this terminal: the job draws its live view for it."""
    found = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    found |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if sys.stdout.isatty():
        size = os.get_terminal_size(sys.stdout.fileno())
        found |= {"FORCE_COLOR": "1", "COLUMNS": str(size.columns), "LINES": str(size.lines)}
    return found


async def _stream(client: Any, job: str) -> None:
    """Print the job's log until the job has ended."""
    async for text in client.tail_job_logs(job):
        sys.stdout.write(text)  # of this project's own command, whose live view moves the cursor
        sys.stdout.flush()


def _exit_code(client: Any, job: str) -> int:
    """The exit code of the job; 1 if Ray has none, as for a job whose node died."""
    while not client.get_job_status(job).is_terminal():
        time.sleep(1)
    info = client.get_job_info(job)
    if info.status == "SUCCEEDED":
        return OK
    if info.driver_exit_code is None:
        print(f"error: the job ended as {info.status}: {one_line(info.message)}", file=sys.stderr)
        return FAILED
    return int(info.driver_exit_code) if info.driver_exit_code > 0 else FAILED


# -- the cluster of a launcher file ----------------------------------------------------------------------------------


def check_launcher_file(file: Path) -> None:
    """Raise `UserError` for a file that does not match Ray's schema. The message names the entry that is wrong."""
    import jsonschema
    import ray.autoscaler
    import yaml

    if not file.is_file():
        raise bad_value("cluster", str(file), LAUNCHER_FILE, "there is no such file")
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:  # the last: of deep lists
        raise bad_value(
            "cluster", str(file), LAUNCHER_FILE, f"it is not valid YAML: {' '.join(str(error).split())}"
        ) from error
    if isinstance(content, dict):
        content = {name: value for name, value in content.items() if name not in OLDER}
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    wrong = jsonschema.exceptions.best_match(jsonschema.Draft7Validator(schema).iter_errors(content))
    if wrong is not None:
        place = wrong.json_path.removeprefix("$").removeprefix(".")
        raise bad_value("cluster", str(file), LAUNCHER_FILE, f"{place}{': ' * bool(place)}{wrong.message}")
    if (provider := content["provider"].get("type")) not in node_providers():
        named = [name for name in node_providers() if not name.startswith(("fake", "readonly"))]
        raise unknown_name(f"cluster: {file}, provider.type", provider, named)
    for place, source in content.get("file_mounts", {}).items():
        if not Path(source).expanduser().exists():
            remedy = f"; {MAKE_TOKEN}" if Path(source).name == "auth_token" else ""
            raise bad_value("cluster", str(file), LAUNCHER_FILE, f"file_mounts.{place}: there is no {source}{remedy}")


@contextlib.contextmanager
def brought_up(file: Path) -> Iterator[str]:
    """Start the cluster of a launcher file, unless it is running. Yields the address of its job server."""
    import click
    from ray.autoscaler.sdk import create_or_update_cluster

    print(f"starting the cluster of {file}", file=sys.stderr, flush=True)
    # the launcher prints its own messages, and this logger only tracebacks
    logging.getLogger("ray.autoscaler").setLevel(logging.CRITICAL)
    try:
        create_or_update_cluster(str(file), no_restart=True)  # a running head is left as it is
    except (SystemExit, click.ClickException) as error:  # how the launcher ends after an error that it has printed
        raise UserError(f"cluster: {file} could not be started; see above") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"cluster: {file} could not be started ({reason})") from error
    use_own_token()  # the tunnel leads to one's own machine
    port = _free_port()
    with _tunnel(file, port) as tunnel:
        _wait_for(port, tunnel, file)
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _tunnel(file: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Forward the head's job server to a port of this machine, through the launcher's SSH. Ctrl-C does not reach it."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "dashboard", str(file), "--port", str(port)]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, tunnel: subprocess.Popen[bytes], file: Path) -> None:
    import requests

    deadline = time.monotonic() + TUNNEL_SECONDS
    while time.monotonic() < deadline and tunnel.poll() is None:
        with contextlib.suppress(requests.RequestException):
            requests.get(f"http://127.0.0.1:{port}/api/version", timeout=CONNECT_SECONDS)
            return
        time.sleep(0.5)
    raise UserError(
        f"cluster: the job server of {file} does not answer through SSH; expected it at port 8265 of its head; to look "
        f"there: ray attach {file}"
    )
