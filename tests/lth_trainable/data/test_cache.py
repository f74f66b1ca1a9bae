"""The cache of decoded images, when several processes need the same ones at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import ROOT

DECODE = """
import os, sys, time
import numpy as np
from lth_trainable.data.cache import kept_or_decoded

def decode(index):
    with open(sys.argv[1], "a") as file:
        file.write(f"{os.getpid()}\\n")
    if index == 0:
        print("decoding", flush=True)
        sys.stdin.read()
    return np.full((2, 2), index, np.uint8)

found = kept_or_decoded(sys.argv[2] if len(sys.argv) > 2 else "images.npy", (3, 2, 2), decode)
assert found[:, 0, 0].tolist() == [0, 1, 2]
"""


@pytest.mark.parametrize("is_killed", [False, True], ids=["decoded", "killed"])
def test_processes_that_need_the_same_images_wait_for_the_one_that_decodes(is_killed: bool, tmp_path: Path) -> None:
    """If that one is killed, another takes over."""
    cache, log = tmp_path / "cache", tmp_path / "log"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", DECODE, str(log)], cwd=ROOT, env={**os.environ, "LTH_CACHE": str(cache)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    first = start()
    assert first.stdout is not None and first.stdout.readline() == "decoding\n"
    others = [start() for _ in range(3)]
    if is_killed:
        first.kill()
    for process in (first, *others):  # all may go on before one is waited for
        assert process.stdin is not None
        process.stdin.close()
    for process in (first, *others):
        assert process.wait(timeout=120) is not None
    assert all(process.returncode == 0 for process in others) and (first.returncode == 0) is not is_killed
    decoded = log.read_text().split()
    assert len(decoded) == (4 if is_killed else 3), "the first alone; or after its first image, one other all three"
    assert [file.name for file in cache.iterdir()] == ["images.npy"]


def test_a_process_that_decodes_other_images_holds_nobody_up(tmp_path: Path) -> None:
    """The first is in the middle of its own, and stays there."""

    def start(name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", DECODE, str(tmp_path / "log"), name], cwd=ROOT, text=True,
            env={**os.environ, "LTH_CACHE": str(tmp_path / "cache")}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    with start("one.npy") as first:
        assert first.stdout is not None and first.stdout.readline() == "decoding\n"
        with start("two.npy") as second:
            second.communicate("", timeout=120)
        assert second.returncode == 0 and first.poll() is None
        first.kill()
    assert sorted(file.name for file in (tmp_path / "cache").iterdir()) == ["one.npy.lock", "two.npy"]
    with start("one.npy") as third:
        third.communicate("", timeout=120)
    assert sorted(file.name for file in (tmp_path / "cache").iterdir()) == ["one.npy", "two.npy"]


def test_a_cache_that_cannot_be_made_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DECODE, str(tmp_path / "log")], cwd=ROOT, input="", text=True,
        env={**os.environ, "LTH_CACHE": str(tmp_path / "file" / "cache")}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
