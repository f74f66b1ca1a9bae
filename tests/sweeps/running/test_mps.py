"""The MPS daemon of a sweep: it ends with the command, however that ends; a daemon of the user's is left alone.

NVIDIA's program is a stand-in here (tests/support/mps.py); tests/end_to_end/test_gpu.py uses the real one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeps.running import mps, mps_keeper
from sweeps.running.gpus import Gpus
from sweeps.running.mps import NOWHERE, mps_for
from sweeps.running.mps_keeper import PIPE_VARIABLE
from sweeps.running.resources import Resources
from tests.support.command import ROOT
from tests.support.mps import StandIn, daemon_of, is_running, until

HOLDER = """
import sys, time
from sweeps.running.mps import mps_for
from lth_trainable import signals
signals.install()
there = mps_for(8, "auto")
print(there.environment["CUDA_MPS_PIPE_DIRECTORY"], flush=True)
time.sleep(600)
"""


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files with a short name; no daemon of this machine counts."""
    monkeypatch.delenv(PIPE_VARIABLE, raising=False)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.setattr(mps, "DEFAULT_PIPES", Path(folder, "default"))
        yield Path(folder)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Path) -> StandIn:
    return StandIn(tmp_path / "bin", monkeypatch)


def test_the_daemon_runs_until_it_is_closed(stand_in: StandIn, base: Path) -> None:
    there = mps_for(8, "auto")
    folder = Path(there.environment[PIPE_VARIABLE]).parent
    assert there.kind == "own" and folder.parent == base and folder.stat().st_mode & 0o777 == 0o700
    assert there.told == "MPS: trials that share a GPU compute at the same time; its daemon ends with this command"
    daemon = daemon_of(folder)
    assert is_running(daemon) and stand_in.calls == ["-d"]
    there.close()
    assert not is_running(daemon) and stand_in.calls == ["-d", "quit"] and not list(base.iterdir())
    there.close()


def kill_driver(holder: subprocess.Popen[str], _: Path) -> None:
    holder.send_signal(signal.SIGKILL)


def interrupt_group(holder: subprocess.Popen[str], _: Path) -> None:
    os.killpg(holder.pid, signal.SIGINT)


def terminate_group(holder: subprocess.Popen[str], _: Path) -> None:
    os.killpg(holder.pid, signal.SIGTERM)


def kill_group(holder: subprocess.Popen[str], _: Path) -> None:
    os.killpg(holder.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "end", [kill_driver, interrupt_group, terminate_group, kill_group], ids=lambda end: end.__name__
)
def test_the_daemon_ends_when_its_command_is_ended(
    end: Callable[[subprocess.Popen[str], Path], None], stand_in: StandIn, base: Path
) -> None:
    with held() as (holder, folder):
        daemon = daemon_of(folder)
        assert is_running(daemon)
        end(holder, folder)
        until(lambda: not is_running(daemon) and not folder.exists())
    assert stand_in.calls == ["-d", "quit"]


def test_what_a_killed_keeper_left_is_ended_by_the_next_start(stand_in: StandIn, base: Path) -> None:
    with held() as (holder, left), held() as (_, used):
        os.kill(keeper_of(left), signal.SIGKILL)
        holder.kill()
        holder.wait()
        until(lambda: is_free(left))
        daemon, of_living = daemon_of(left), daemon_of(used)
        there = mps_for(2, "auto")
        try:
            assert not is_running(daemon) and not left.exists(), "nobody keeps it"
            assert is_running(of_living) and used.exists(), "another command uses it"
        finally:
            there.close()


def test_a_daemon_that_does_not_quit_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    monkeypatch.setattr(mps_keeper, "QUIT_SECONDS", 0.5)
    stand_in = StandIn(tmp_path / "bin", monkeypatch, hangs=True)
    with held() as (_, folder):
        daemon = daemon_of(folder)
        os.kill(keeper_of(folder), signal.SIGKILL)
        until(lambda: is_free(folder))
        mps.remove_abandoned(base)
        assert not is_running(daemon) and not folder.exists() and "quit" in stand_in.calls


def test_a_daemon_that_does_not_start_costs_nothing_but_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    StandIn(tmp_path / "bin", monkeypatch, fails=True)
    there = mps_for(4, "auto")
    assert (there.kind, dict(there.environment)) == ("none", {PIPE_VARIABLE: NOWHERE}) and there.told is not None
    assert there.told.startswith("no MPS: its daemon does not start (Cannot start the daemon: no such device); trials")
    there.close()
    until(lambda: not list(base.iterdir()))


def test_a_machine_without_the_program_is_told(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    monkeypatch.setenv("PATH", str(base))
    there = mps_for(4, "auto")
    assert there.told == "no MPS: this machine has no nvidia-cuda-mps-control; trials that share a GPU take turns"
    assert not there.environment and there.kind == "none"


@pytest.mark.parametrize(
    ("trials", "wanted", "told"),
    [
        (8, "off", "MPS is off: trials that share a GPU take turns"),
        (49, "auto", "serves 48 processes"),
        (1, "auto", ""),
    ],
)
def test_no_daemon_starts_where_none_is_wanted(
    trials: int, wanted: str, told: str, stand_in: StandIn, base: Path
) -> None:
    there = mps_for(trials, wanted)
    assert told in (there.told or "") and there.kind in ("off", "none") and not stand_in.calls
    assert dict(there.environment) == ({PIPE_VARIABLE: NOWHERE} if told else {})


def test_a_daemon_of_the_users_is_used_and_left_alone(stand_in: StandIn, base: Path) -> None:
    pipes = base / "users"
    pipes.mkdir()
    (pipes / "nvidia-cuda-mps-control.pid").write_text("0")
    there = mps_for(8, "auto", {PIPE_VARIABLE: str(pipes)})
    assert there.kind == "user's" and not there.environment and str(pipes) in (there.told or "")
    there.close()
    assert stand_in.calls == ["get_server_list"] and pipes.exists()


def test_a_daemon_in_the_default_folder_is_the_users(stand_in: StandIn, base: Path) -> None:
    mps.DEFAULT_PIPES.mkdir()
    (mps.DEFAULT_PIPES / "nvidia-cuda-mps-control.pid").write_text("0")
    assert mps_for(8, "auto").kind == "user's" and stand_in.calls == ["get_server_list"]


def test_a_folder_of_the_users_without_a_daemon_gets_none(stand_in: StandIn, base: Path) -> None:
    there = mps_for(8, "auto", {PIPE_VARIABLE: str(base)})
    assert there.kind == "none" and f"no daemon answers at {PIPE_VARIABLE}={base}" in (there.told or "")


def test_folders_of_others_stay(stand_in: StandIn, base: Path) -> None:
    target = base / "target"
    target.mkdir()
    (target / "lock").touch()
    (base / "lthm-abcdefgh").symlink_to(target)
    (base / "lthm-12345678").mkdir()
    mps.remove_abandoned(base)
    assert (target / "lock").exists() and (base / "lthm-12345678").exists()


def test_trials_alone_on_a_gpu_need_no_daemon(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    alone = Gpus.ready(Resources(gpus=1), "auto")
    assert alone.told == [] and alone.packing is not None and alone.packing.visible == ["4", "5"]
    shared = Gpus.ready(Resources(gpus=0.5), "auto")
    try:
        assert shared.packing is not None and shared.packing.visible == ["0", "1"] and stand_in.calls == ["-d"]
        assert shared.environment and shared.for_ray == {"lottery_gpu_0": 2, "lottery_gpu_1": 2, "lottery_listing": 1}
    finally:
        shared.close()
    assert Gpus.ready(Resources(), "auto").packing is None


class held:
    """A process that holds a daemon of its own: the process and the daemon's folder."""

    def __enter__(self) -> tuple[subprocess.Popen[str], Path]:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        return self.process, Path(self.process.stdout.readline().strip()).parent

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def keeper_of(folder: Path) -> int:
    for about in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = about.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in words and any(word.endswith(b"mps_keeper.py") for word in words):
            return int(about.parent.name)
    raise AssertionError("no keeper")


def is_free(folder: Path) -> bool:
    try:
        os.close(mps_keeper.lock_of(folder))
    except BlockingIOError:
        return False
    return True
