"""Sockets under a temporary folder with a long path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lth_trainable.short_paths import LONGEST_SOCKET, SHORT, socket_folder

LOADS = """
import numpy as np, torch
from fastai.data.core import DataLoaders
from torch.utils.data import DataLoader, TensorDataset
from lth_trainable.data.feeding import loaders_of
from lth_trainable.data.own import load_own

def loaders(root, split_seed):
    y = torch.arange(20) % 2
    return DataLoaders(*(DataLoader(TensorDataset(torch.zeros(20, 1, 9, 9), y), 5, num_workers=1) for _ in "ab"))

if __name__ == "__main__":
    data = load_own("own", loaders, None, 0)
    print(sum(len(x) for x, _ in loaders_of(data, batch_size=5, order_seed=0).train))
"""


def test_a_folder_that_is_too_long_gives_way_to_a_short_one() -> None:
    fits = "/" + "x" * (LONGEST_SOCKET - 31)
    assert socket_folder(30, fits) == fits
    assert socket_folder(31, fits) in SHORT
    assert socket_folder(31, fits, ("/nowhere/at/all", "/")) in ("/", "/nowhere/at/all")


def test_a_users_loaders_with_processes_work_under_a_long_temporary_folder(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    (tmp_path / "loads.py").write_text(LOADS)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "loads.py")], capture_output=True, text=True, check=False,
        env={**os.environ, "TMPDIR": str(long), "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout.strip() == "20", done.stderr
