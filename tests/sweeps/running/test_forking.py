"""Workers are forked from a process that has imported everything, and are as those that Ray starts by itself."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.data import datasets
from lth_trainable.data.cache import kept_or_decoded
from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.running import fork_client, fork_server, forking
from sweeps.running.forking import ForkServer, Needs
from sweeps.running.needs import needs_of
from sweeps.running.warm_up import MODULES, WarmUp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
AHEAD = "json.tool"  # stands for what takes seconds
WORKER = f"""
import json, os, signal, sys
with open(os.environ["SHOWN"] + ".part", "w") as file:
    json.dump({{
        "argv": sys.argv, "name": __name__, "folder": os.getcwd(), "path": sys.path[0],
        "value": os.environ.get("VALUE"), "gone": os.environ.get("SERVERS_OWN"),
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "children": signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL, "is_there": "{AHEAD}" in sys.modules,
        "read": sys.stdin.read(), "parent": os.getppid(),
    }}, file)
os.replace(os.environ["SHOWN"] + ".part", os.environ["SHOWN"])
print("said")
sys.exit(3)
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServer]:
    monkeypatch.setattr(forking, "AHEAD", (AHEAD, "no_such_module"))
    started = ForkServer.start({"SERVERS_OWN": "1"}, {signal.SIGTERM})
    assert started is not None
    yield started
    started.close()
    assert started.process.returncode is not None


def test_a_forked_worker_is_what_ray_wants_to_start(server: ForkServer, tmp_path: Path) -> None:
    shown, said = _start(server.listen(tmp_path), tmp_path)
    assert shown.pop("parent") == server.process.pid and shown["is_there"]
    ordinary, said_too = _start([], tmp_path)
    assert not ordinary["is_there"]
    del ordinary["is_there"], shown["is_there"], ordinary["parent"]
    assert (shown, said) == (ordinary, said_too)
    assert shown["blocked"] == [int(signal.SIGUSR1)] and shown["value"] == "7" and shown["read"] == "asked\n"


def test_a_server_that_is_ready_before_the_command_forks_too(server: ForkServer, tmp_path: Path) -> None:
    """A socket that does not listen yet seems to be readable. After the first order it has seen that for certain."""
    for number in range(2):
        _order_and_wait(server, tmp_path, f"first_{number}")
    shown, _ = _start(server.listen(tmp_path), tmp_path)
    assert shown["parent"] == server.process.pid


def test_workers_have_the_data_that_were_ordered(server: ForkServer, tmp_path: Path) -> None:
    settings = ("digits", None, 0, None)
    server.order(Needs(data=(("no_such_data", None, 0, None), settings)))
    code = (
        "from lth_trainable.data.datasets import load_dataset\nbefore = load_dataset.cache_info()\n"
        f"data = load_dataset(*{settings!r})\nafter = load_dataset.cache_info()\n"
        "found = before.currsize, after.hits - before.hits, after.misses - before.misses, len(data.train)\n"
    )
    assert _found_by(server, tmp_path, code) == ["1", "1", "0", "1150"]


def test_workers_do_what_was_ordered_until_their_first_trial(server: ForkServer, tmp_path: Path) -> None:
    """Also if a later order says nothing of it."""
    server.order(Needs(modules=MODULES[:1], warm_up=WarmUp(spec={}, execution={}, environment={})))
    code = "import threading\nfound = [thread.name for thread in threading.enumerate()]\n"
    assert _found_by(server, tmp_path, code) == ["MainThread", "warm-up"]


def test_images_that_are_not_decoded_yet_are_left_to_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[Any, ...]] = []

    def load(*settings: Any) -> Any:
        loaded.append(settings)
        return kept_or_decoded("none.npy", (1, 1, 1, 1), lambda _: pytest.fail("decoded"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(fork_server, "has_ended", lambda: False)
    fork_server.load_all([["pets", "/some/folder", 7, 32]])
    assert loaded == [("pets", Path("/some/folder"), 7, 32)]


def test_a_server_that_has_ended_leaves_workers_to_themselves(server: ForkServer, tmp_path: Path) -> None:
    starter = server.listen(tmp_path)
    server.process.kill()
    server.process.wait()
    shown, _ = _start(starter, tmp_path)
    assert not shown["is_there"] and shown["value"] == "7"


def test_a_server_ends_with_its_command(tmp_path: Path) -> None:
    """Here the command is killed, and nobody closes anything."""
    code = (
        "import os, signal; from sweeps.running import forking; forking.AHEAD = ('json.tool',); "
        "print(forking.ForkServer.start({}, set()).process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        pid = int(command.stdout.readline())
    assert command.returncode == -signal.SIGKILL
    end = os.pidfd_open(pid) if Path(f"/proc/{pid}").exists() else None
    if end is not None:
        assert select.select([end], [], [], 120)[0], "the fork server outlives its command"
        os.close(end)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("py /r/default_worker.py --a", "/r/default_worker.py --a"),
        ("py /r/setup_worker.py /r/default_worker.py --a --language=PYTHON", "/r/default_worker.py --a"),
        ("py /r/default_worker.py --worker-type=WORKER", "/r/default_worker.py --worker-type=WORKER"),
        ("py /r/default_worker.py --worker-type=SPILL_WORKER", None),
        ("py /r/setup_worker.py /r/default_worker.py --serialized-runtime-env-context={}", None),
        ("py -s /r/default_worker.py", None),
        ("py /r/other.py", None),
    ],
)
def test_only_plain_workers_are_forked(command: str, arguments: str | None) -> None:
    assert fork_client.arguments_of(command.split()) == (None if arguments is None else arguments.split())


@pytest.mark.slow
def test_all_that_is_imported_ahead_is_there_and_ray_is_not() -> None:
    """Ray reads its environment when it is imported, and a forked worker has another than the server."""
    code = (
        f"import importlib, sys; [importlib.import_module(n) for n in {forking.AHEAD!r}]; print('ray' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_the_needs_of_trials_are_libraries_and_known_data() -> None:
    specs = [
        TrialSpec(dataset=dataset, model=model, split_seed=seed)
        for dataset, model, seed in (
            ("pets", "resnet18", 0), ("pets", "torchvision:resnet50", 0),
            ("tests.support.bad_plugins:fine", "conv_2", 0),
            ("pets", "resnet18", 1), ("digits", "lenet_300_100", 0),
        )
    ]  # fmt: skip
    assert needs_of(specs, Path("/data")) == Needs(
        modules=("lth_trainable.models.torchvision_networks",),
        data=(("pets", "/data", 0, None), ("pets", "/data", 1, None)),
    )
    assert needs_of(specs[-1:], None) == Needs(data=(("digits", None, 0, None),))


def _order_and_wait(server: ForkServer, folder: Path, module: str) -> None:
    """Order a module, and wait until the server has imported it."""
    path, done = folder / f"{module}.py", folder / f"{module}.done"
    path.write_text(f"import pathlib; pathlib.Path({str(done)!r}).touch()")
    sys.path.append(str(folder))
    try:
        server.order(Needs(modules=(module,)))
    finally:
        sys.path.remove(str(folder))
    _wait_for(done)


def _found_by(server: ForkServer, folder: Path, code: str) -> list[str]:
    """What a worker that the server forks finds: the words of `found`, which this code makes."""
    script, shown = folder / "default_worker.py", folder / "shown"
    script.write_text(
        f"{code}\nimport os\nwith open(os.environ['SHOWN'] + '.part', 'w') as file:\n    print(*found, file=file)\n"
        "os.replace(os.environ['SHOWN'] + '.part', os.environ['SHOWN'])\n"
    )
    subprocess.run(
        [*server.listen(folder), sys.executable, str(script)], env={**os.environ, "SHOWN": str(shown)}, cwd=folder,
        check=True, timeout=120,
    )  # fmt: skip
    _wait_for(shown)
    return shown.read_text().split()


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + 120
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def _start(starter: list[str], folder: Path) -> tuple[dict[str, Any], str]:
    """What a worker shows of itself, and what it prints; started as Ray would start it."""
    script, shown = folder / "default_worker.py", folder / "shown.json"
    script.write_text(WORKER)
    shown.unlink(missing_ok=True)
    environment = {**os.environ, "SHOWN": str(shown), "VALUE": "7", "PYTHONPATH": "/some/where"}
    done = subprocess.run(
        [*starter, sys.executable, str(script), "--a", "b c"], input="asked\n", stdout=subprocess.PIPE, text=True,
        env=environment, cwd=folder, check=False, timeout=120,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1}),
    )  # fmt: skip
    found: dict[str, Any] = json.loads(shown.read_text())
    return found, done.stdout


def test_a_server_that_was_started_ahead_is_the_one_if_it_has_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "AHEAD", (AHEAD,))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    forking.start_ahead(["digits", "--dry-run"], set())
    assert not forking._ahead
    forking.start_ahead(["digits", "--seeds=2"], set())
    ((_, ahead),) = forking._ahead
    assert f"{forking.MARK}={forking.MARKED[forking.MARK]}" in Path(f"/proc/{ahead.process.pid}/environ").read_text()
    assert forking.server_for({"OMP_NUM_THREADS": "2"}, set()) is ahead
    ahead.close()
    forking.start_ahead(["digits"], set())
    ((_, ahead),) = forking._ahead
    other = forking.server_for({"OMP_NUM_THREADS": "3"}, set())
    assert other is not None and other is not ahead and ahead.process.returncode is not None
    other.close()
