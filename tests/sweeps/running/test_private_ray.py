"""The folder and the settings of a Ray that nobody else can use. tests/end_to_end/test_exposure.py tries to get in."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lth_trainable.errors import UserError
from lth_trainable.short_paths import LONGEST_SOCKET
from sweeps.running.private_ray import BELOW, private_folder, private_settings, set_for_ray
from tests.support.command import ROOT


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files with a short name: pytest's own are too long for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def test_the_folder_is_entered_by_this_user_only_and_is_gone_afterwards(base: Path) -> None:
    with private_folder() as folder:
        assert folder.parent.parent == base and stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        (folder / "session" / "logs").mkdir(parents=True)
    assert list(base.iterdir()) == []


HOLDER = """
import sys, time
from sweeps.running.private_ray import private_folder
with private_folder() as folder:
    folder.mkdir()
    print(folder.parent, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_uses_is_not(base: Path) -> None:
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLDER], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    killed, living = (Path(h.stdout.readline().strip()) for h in holders if h.stdout is not None)
    holders[0].send_signal(signal.SIGKILL)
    holders[0].communicate()
    try:
        with private_folder():
            assert living.is_dir() and not killed.exists()
    finally:
        holders[1].kill()
        holders[1].communicate()


def test_folders_of_others_stay(base: Path) -> None:
    """Only a folder with the lock file of this program is removed, and no link is followed."""
    target = base / "target"
    target.mkdir()
    (target / "lock").touch()
    (base / "lth-abcdefgh").symlink_to(target)
    foreign = base / "lth-12345678"
    foreign.mkdir()
    (foreign / "file").touch()
    locked = base / "lth-87654321"
    locked.mkdir()
    (locked / "lock").symlink_to(target / "lock")
    with private_folder():
        pass
    assert (target / "lock").exists() and (foreign / "file").exists() and locked.exists()


def test_a_folder_that_is_too_long_for_sockets_is_not_used_and_that_is_said(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fits = str(base / ("x" * (LONGEST_SOCKET - BELOW - len(str(base)) - 1)))
    for chosen, used in ((fits, fits), (f"{fits}x", "/tmp")):
        monkeypatch.setenv("RAY_TMPDIR", chosen)
        with private_folder() as folder:
            assert str(folder.parent.parent) == used
        said = capsys.readouterr().err
        assert said == "" if used == fits else said.startswith(f"note: RAY_TMPDIR {chosen} is too long")


def test_a_temporary_folder_that_is_not_there_is_said_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/nowhere/at/all")
    monkeypatch.setattr("tempfile.tempdir", None)  # so that it is looked for again
    with private_folder() as folder:
        assert capsys.readouterr().err.startswith("note: TMPDIR /nowhere/at/all cannot be written to; ")
        assert folder.parent.exists()


def test_a_folder_that_cannot_be_made_is_one_line(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(base / "file"))
    with (
        pytest.raises(UserError, match=r"^ray: found .*/file, where no folder can be made \(File exists\).*RAY_TMPDIR"),
        private_folder(),
    ):
        pass


def test_each_ray_has_a_token_of_its_own_and_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    first, second = private_settings(), private_settings()
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"] and len(first["RAY_AUTH_TOKEN"]) == 64
    before = dict(os.environ)
    with set_for_ray(first):
        assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]) == ("token", first["RAY_AUTH_TOKEN"])
    assert dict(os.environ) == before
