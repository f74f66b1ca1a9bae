"""A sweep that believes in GPUs which are not there: its trials train on the CPU, placed as if each had its GPU."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

SEEN = "LTH_TEST_SEEN"  # variable that names the file for `seen`
CODE = """
import sys
import torch
torch.cuda.device_count = lambda: {gpus}
from sweeps import lth_grid
from sweeps.cli import replicas
from sweeps.running.resources import Resources
of_gpu = Resources.execution
Resources.execution = lambda self: of_gpu(self) | {{"device": "cpu"}}
if {measured} is not None:
    replicas.lines_of = lambda *_: {measured}
sys.exit(lth_grid.main(sys.argv[1:]))
"""


def command_with_gpus(gpus: int, measured: Sequence[str] | None = None) -> Callable[..., list[str]]:
    """`tests.support.command.command` on a machine that has so many GPUs, according to PyTorch in the driver.

    measured: what the process says that measures stacks; None: it measures.
    """

    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-c", CODE.format(gpus=gpus, measured=measured), *arguments]

    return command


def network(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """A small network, which notes in which process, and for which GPU, it is built."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpu is not None:
        place = {"pid": os.getpid(), "gpu": gpu, "mps": os.environ.get("CUDA_MPS_PIPE_DIRECTORY")}
        with open(os.environ[SEEN], "a") as file:
            file.write(f"{json.dumps(place)}\n")
    inputs = math.prod(shape)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, n_classes))


def network_without_room(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """The same; but the first that a worker builds finds no memory, as on a GPU that has too many trials."""
    found = network(shape, n_classes)
    if "CUDA_VISIBLE_DEVICES" in os.environ and len(notes(Path(os.environ[SEEN]))) == 1:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return found


def notes(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
