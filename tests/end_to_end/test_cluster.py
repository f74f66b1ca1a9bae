"""Sweeps on Ray clusters for real: a head with its job server, several nodes on this machine, nodes that are killed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lth_trainable.errors import UserError
from sweeps.running.cluster import GROWING, Cluster
from sweeps.running.ray_adapter import read_environment_again, wants_other_token
from sweeps.running.resources import Resources
from sweeps.running.submit import run_job
from tests.support.command import ROOT, command, free_ports, hashes

pytest.importorskip("aiohttp", reason="for the cluster extra")

SMALL = ["digits", "--controls", "none", "--epochs", "1", "--sparsity", "40", "--rewind-epoch", "0", "--seeds", "1"]
LONG = [
    "digits", "--controls", "none", "--epochs", "20", "--sparsity", "87.04", "--rewind-epoch", "0", "1", "--seeds",
    "5",
]  # fmt: skip
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # as on every cluster that others can reach
ENVIRONMENT = {
    **os.environ, **TOKEN, "RAY_USAGE_STATS_ENABLED": "0",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}  # fmt: skip


def sweep(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, cwd=ROOT,
        timeout=400, env={**ENVIRONMENT, **environment},
    )  # fmt: skip


def summary(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


@contextlib.contextmanager
def ray_start(*arguments: str, within: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """A node of a cluster, gone at the end with all that it started."""
    command = [*within, "ray", "start", "--block", "--disable-usage-stats", "--num-gpus=0", *arguments]
    node = subprocess.Popen(
        command, env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield node
    finally:
        node.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """Addresses of a head with two cores and its job server: `gcs` and `jobs`."""
    gcs, jobs, agent, client = free_ports(4)
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a short one: Ray's sockets are in it
    arguments = [
        "--head", "--num-cpus=2", f"--port={gcs}", f"--dashboard-port={jobs}", f"--temp-dir={folder}",
        f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
    ]  # fmt: skip
    with ray_start(*arguments) as node:
        deadline = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", jobs)):
            assert node.poll() is None and time.monotonic() < deadline, "the head does not start"
            time.sleep(0.2)
        yield {"gcs": f"127.0.0.1:{gcs}", "jobs": f"http://127.0.0.1:{jobs}"}
    shutil.rmtree(folder, ignore_errors=True)


ALIVE = urllib.parse.urlencode({"filter_keys": "state", "filter_predicates": "=", "filter_values": "ALIVE"})


def nodes_of(head: dict[str, str]) -> int:
    """Nodes that are up; none where the job server does not answer yet."""
    said = {"Authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}"}
    asked = urllib.request.Request(f"{head['jobs']}/api/v0/nodes?{ALIVE}", headers=said)
    with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(asked, timeout=60) as answer:
        return int(json.load(answer)["data"]["result"]["num_filtered"])
    return 0


def wait_for_nodes(head: dict[str, str], number: int) -> None:
    deadline = time.monotonic() + 120
    while nodes_of(head) < number:
        assert time.monotonic() < deadline, "the node does not come up"
        time.sleep(0.5)


@pytest.mark.slow
def test_without_the_clusters_token_a_command_is_refused_at_once(
    head: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself retries for half a minute, and then says that it could not connect."""
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("it would try for half a minute"))
    for mode, token in (("disabled", ""), ("token", "0" * 64)):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        read_environment_again()
        told = r"refuses this process, which does not know its token.*set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH"
        with pytest.raises(UserError, match=told):
            Cluster.connect(head["gcs"], Resources(), print)
        with pytest.raises(UserError, match=told):
            run_job(head["jobs"], "sweeps.lth_grid", [])
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN["RAY_AUTH_TOKEN"])
    read_environment_again()
    assert not wants_other_token(head["gcs"])
    monkeypatch.undo()
    read_environment_again()


# -- jobs ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_command_is_submitted_and_streams_and_returns_the_jobs_exit_code(
    head: dict[str, str], tmp_path: Path
) -> None:
    done = sweep(*SMALL, "--storage", str(tmp_path / "a"), "--json", "--address", head["jobs"])
    assert summary(done)["done"] == 2
    assert "2 trials: 2 to go" in done.stdout and "1 node, 0/0 GPUs" in done.stdout
    local = sweep(*SMALL, "--storage", str(tmp_path / "b"), "--json")
    assert summary(local)["done"] == 2 and hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert "node" not in local.stdout
    broken = [*SMALL, "--model", "tests.plugins:broken_model", "--storage", str(tmp_path / "a")]
    done = sweep(*broken, f"--address={head['jobs']}")
    assert done.returncode == 1 and "RuntimeError: this network cannot be trained" in done.stdout


@pytest.mark.slow
def test_an_interrupt_stops_the_job_which_keeps_what_is_finished(head: dict[str, str], tmp_path: Path) -> None:
    arguments = [*LONG[:-1], "20", "--storage", str(tmp_path), "--json", "--address", head["jobs"]]
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=ROOT, env=ENVIRONMENT,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("digits/trials/*/manifest.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err, out + err
    told = json.loads(next(row for row in reversed(out.splitlines()) if row.startswith("{")))
    assert 1 <= told["done"] < told["planned"] == 60


@pytest.mark.slow
def test_with_a_launcher_file_a_command_inside_a_cluster_connects(head: dict[str, str], tmp_path: Path) -> None:
    done = sweep(*SMALL, "--storage", str(tmp_path), "--json", "--cluster", "any.yaml", RAY_ADDRESS=head["gcs"])
    assert summary(done)["done"] == 2 and "1 node, 0/0 GPUs" in done.stdout
    again = sweep(*SMALL[:-1], "2", "--storage", str(tmp_path), "--json", "--address", head["gcs"])
    assert summary(again)["skipped"] == 2 and summary(again)["epochs_trained"] == 2


@pytest.mark.slow
def test_what_no_node_can_take_is_refused(head: dict[str, str], tmp_path: Path) -> None:
    done = sweep(*SMALL, "--storage", str(tmp_path), "--gpus-per-trial", "0.5", "--address", head["gcs"])
    assert done.returncode == 2 and done.stderr.startswith("error: cluster: found no node with 1 CPU and 0.5 GPU")


@pytest.mark.slow
def test_a_storage_that_a_node_does_not_share_is_refused_before_any_trial(head: dict[str, str], tmp_path: Path) -> None:
    """The second node is in a mount namespace of its own, where another file system lies over the storage."""
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("mount namespaces need privileges")
    storage = tmp_path / "runs"
    storage.mkdir()
    hide = ("unshare", "-m", "sh", "-c", f'mount -t tmpfs tmpfs "{storage}" && exec "$@"', "-")
    with ray_start(f"--address={head['gcs']}", "--num-cpus=1", within=hide):
        wait_for_nodes(head, 2)
        done = sweep(*SMALL, "--storage", str(storage), "--address", head["gcs"])
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"error: storage: {storage} is not shared by all nodes" in done.stderr
    assert "does not see what the driver wrote" in done.stderr and "s3://" in done.stderr
    assert not list(storage.glob("digits/trials/*")) and not list(storage.glob("digits/.shared"))


@pytest.mark.slow
def test_where_an_autoscaler_is_at_work_a_sweep_waits_for_a_node_that_can_take_it(
    head: dict[str, str], tmp_path: Path
) -> None:
    arguments = [*SMALL, "--storage", str(tmp_path), "--json", "--cpus-per-trial", "3", "--address", head["gcs"]]
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**ENVIRONMENT, GROWING: "1"},
    )  # fmt: skip
    assert process.stdout is not None
    shown = iter(process.stdout)
    assert any("0 running" in row and "1 node, 0/0 GPUs" in row for row in shown)
    with ray_start(f"--address={head['gcs']}", "--num-cpus=3"):
        rows = list(shown)
        assert process.wait(timeout=60) == 0, rows
    assert json.loads(rows[-1])["done"] == 2 and any("2 nodes, 0/0 GPUs" in row for row in rows)


SCONTROL = "printf 'one\ntwo\n'"
SRUN = 'while [ $# -gt 0 ]; do case "$1" in -w) shift 2;; --*) shift;; *) exec "$@";; esac; done'


@pytest.mark.slow
def test_the_batch_script_of_the_docs_runs(tmp_path: Path) -> None:
    """With two nodes on this machine: srun and scontrol are stand-ins, all else is real."""
    script = tmp_path / "sweep.sbatch"
    script.write_text((ROOT / "docs" / "clusters.md").read_text().split("```bash\n")[1].split("```")[0])
    for name, code in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(f"#!/bin/bash\n{code}\n")
        (tmp_path / name).chmod(0o755)
    (port,) = free_ports(1)
    script.write_text(script.read_text().replace("$((20000 + SLURM_JOB_ID % 20000))", str(port)))
    script.write_text(script.read_text().replace("source .venv/bin/activate", ""))
    given = {
        "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1",
        "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_GPUS_ON_NODE": "0",
        "PATH": f"{tmp_path}{os.pathsep}{ENVIRONMENT['PATH']}",
    }  # fmt: skip
    batch = subprocess.Popen(
        ["bash", str(script), *SMALL, "--storage", str(tmp_path / "runs"), "--json"], text=True, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**ENVIRONMENT, **given}, start_new_session=True,
    )  # fmt: skip
    try:
        out, _ = batch.communicate(timeout=200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(batch.pid, signal.SIGKILL)
    assert batch.returncode == 0 and '"done": 2' in out, out


# -- the launcher ----------------------------------------------------------------------------------------------------

SSH = """
import os, re, socket, subprocess, sys, threading

words, forward = iter(sys.argv[1:]), None
for word in words:
    if word == "-L":
        forward = int(next(words).partition(":")[0])
    elif word in ("-i", "-o", "-p", "-l"):
        next(words)
    elif not word.startswith("-"):
        break

def pump(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.close()

def accept(server):
    while True:
        here, _ = server.accept()
        there = socket.create_connection(("127.0.0.1", int(os.environ["JOBS_PORT"])))
        for pair in ((here, there), (there, here)):
            threading.Thread(target=pump, args=pair, daemon=True).start()

if forward:
    threading.Thread(target=accept, args=(socket.create_server(("127.0.0.1", forward)),), daemon=True).start()
sys.exit(subprocess.call(["sh", "-c", " ".join(words)]))
"""
RSYNC = """
import os, subprocess, sys

source, target = (os.path.expanduser(word.split(":")[-1]) for word in sys.argv[-2:])
os.makedirs(os.path.dirname(target.rstrip("/")), exist_ok=True)
sys.exit(subprocess.call(["cp", "-rL", source, target]))
"""


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A launcher file of one machine, this one, and an environment in which ssh and rsync lead back here."""
    gcs, jobs, agent, client = free_ports(4)
    home, folder = tmp_path / "home", tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    for name, code in (("ssh", SSH), ("rsync", RSYNC)):
        command = home / "bin" / name
        command.parent.mkdir(parents=True, exist_ok=True)
        command.write_text(f"#!{sys.executable}\n{code}")
        command.chmod(0o755)
    (home / "key").touch()
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN["RAY_AUTH_TOKEN"])
    sent = tmp_path / "there" / "token"
    path = f"{home / 'bin'}{os.pathsep}{ENVIRONMENT['PATH']}"
    start = (
        f"unset RAY_AUTH_TOKEN; export PATH='{path}' RAY_AUTH_TOKEN_PATH='{sent}';"
        f" RAY_AUTH_MODE=token RAY_enable_autoscaler_v2=0 ray start --head --num-cpus=2"
        f" --num-gpus=0 --port={gcs} --dashboard-port={jobs} --temp-dir={folder} --disable-usage-stats"
        f" --dashboard-agent-listen-port={agent} --ray-client-server-port={client}"
        " --autoscaling-config=~/ray_bootstrap_config.yaml"
    )
    file = tmp_path / "here.yaml"
    file.write_text(yaml.safe_dump({
        "cluster_name": f"here-{jobs}", "provider": {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []},
        "auth": {"ssh_user": "me", "ssh_private_key": str(home / "key")}, "min_workers": 0, "max_workers": 0,
        "head_start_ray_commands": [start], "file_mounts": {str(sent): "~/.ray/auth_token"},
    }))  # fmt: skip
    try:
        yield file, {"HOME": str(home), "PATH": path, "JOBS_PORT": str(jobs)}
    finally:
        started = subprocess.run(["pgrep", "-f", folder], capture_output=True, text=True, check=False)
        for pid in started.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_launcher_file_brings_a_cluster_up_once_and_submits_to_it(
    launcher: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's launcher, its `local` provider, a head, its autoscaler, the tunnel and the job: all but the network."""
    file, environment = launcher
    arguments = [*SMALL, "--storage", str(tmp_path / "runs"), "--json", "--cluster", str(file)]
    for name in TOKEN:  # it is found in ~/.ray
        monkeypatch.delitem(ENVIRONMENT, name)
    done = sweep(*arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trials: 2 to go" in done.stdout and done.stderr.strip().endswith(f"ray down {file}")
    again = summary(sweep(*arguments, **environment))
    assert (again["skipped"], again["done"]) == (2, 2), "the head was left as it ran"
    done = sweep(*arguments, "--storage", "runs", **environment)
    assert done.returncode == 2, "refused before the launcher is asked"


# -- nodes -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def three_nodes() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name in (*TOKEN, "RAY_USAGE_STATS_ENABLED"):
            patch.setenv(name, ENVIRONMENT[name])
        read_environment_again()
        patch.setattr("ray._private.utils.write_ray_address", lambda *_: None)  # others here are not to find it
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
        try:
            cluster.victim = cluster.add_node(num_cpus=1, num_gpus=0)
            cluster.add_node(num_cpus=1, num_gpus=2)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            cluster.shutdown()
    read_environment_again()


def trials_on(node: Any) -> list[int]:
    """Processes below a node's raylet that train."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = subprocess.run(
        ["pgrep", "-P", str(raylet), "-f", "ray::ImplicitFunc"], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.slow
def test_three_nodes_give_what_one_machine_gives_with_one_of_them_killed_too(tmp_path: Path) -> None:
    local, whole, killed = (tmp_path / name for name in ("local", "whole", "killed"))
    summary(sweep(*LONG, "--storage", str(local), "--json"))
    with three_nodes() as cluster:
        arguments = [*LONG, "--json", "--cluster", str(ROOT / "cluster.yaml")]
        done = sweep(*arguments, "--storage", str(whole), RAY_ADDRESS=cluster.address)
        assert summary(done)["done"] == 15 and "3 nodes, 0/2 GPUs" in done.stdout
        assert hashes(whole) == hashes(local)
        process = subprocess.Popen(
            command(*arguments, "--storage", str(killed)), cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**ENVIRONMENT, "RAY_ADDRESS": cluster.address},
        )  # fmt: skip
        deadline = time.monotonic() + 240
        while len(list(killed.glob("states/*/*/manifest.json"))) < 3 or not trials_on(cluster.victim):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        cluster.remove_node(cluster.victim, allow_graceful=False)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out
        assert json.loads(out.strip().splitlines()[-1])["done"] == 15
    assert hashes(killed) == hashes(local)
