"""Seconds an epoch a model while eight trials share a GPU: ResNet-18 on pets, ResNet-20 on images like CIFAR-10's.

    python benchmarks/packed_epochs.py --data-root DIR [--tasks pets cifar] [--trials 8]

Each task is one command of `sweeps.lth_grid` in a new folder: as many dense networks as trials share the GPU, and then
their tickets, so that all places are always taken. `model_epoch_s` is the median duration of an epoch with its
validation, without the first two of each trial, divided by the number of trials. Prints one JSON object. The exit code
is 1 if a trial is missing or a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
UNCOUNTED = 2  # epochs at the start of each trial: an eager step, captures, the choice of kernels
ADAM = ("--lr", "1e-3", "--beta2", "0.99", "--eps", "1e-5", "--weight-decay", "0.01")
SGD = ("--optimizer", "sgd", "--lr", "0.01", "--augment", "flip_shift")
TASKS = {  # flags, epochs, target
    "pets": (("--dataset", "pets", "--model", "resnet18", "--batch-size", "64", *ADAM), 30, 0.11),
    "cifar": (
        ("--dataset", "benchmarks.random_images:like_cifar10", "--model", "resnet20", "--batch-size", "128", *SGD),
        8, 0.45,
    ),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the tasks one after another; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--trials", type=int, default=8, help="that share the GPU")
    parser.add_argument("--epochs", type=int, help="instead of each task's own")
    parser.add_argument("--image-size", type=int, help="of pets, to try it on a CPU")
    options = parser.parse_args(arguments)
    on_gpu, load = torch.cuda.is_available(), os.getloadavg()[0]
    found = {task: measured(task, options, on_gpu) for task in options.tasks}
    print(json.dumps({
        "device": torch.cuda.get_device_name() if on_gpu else "cpu", "cores": os.cpu_count(), "load_before": load,
        "torch": torch.__version__, "trials": options.trials, "tasks": found,
    }, indent=1))  # fmt: skip
    return 0 if all(each["meets_target"] for each in found.values()) else 1


def measured(task: str, options: argparse.Namespace, on_gpu: bool) -> dict[str, Any]:
    """Run the command of a task, and read its records."""
    flags, epochs, target = TASKS[task]
    size = ["--image-size", str(options.image_size)] if options.image_size and task == "pets" else []
    where = ["--trials-per-gpu", str(options.trials)] if on_gpu else ["--max-concurrent", str(options.trials)]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "sweeps.lth_grid", "digits", *flags, *size, "--data-root", str(options.data_root),
            "--precision", "auto", "--controls", "none", "--schedule", "omp", "--sparsity", "80", "--rewind-epoch", "0",
            "--epochs", str(options.epochs or epochs), "--seeds", str(options.trials), "--storage", folder, *where,
        ]  # fmt: skip
        began = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        if done.returncode:
            sys.exit(f"{task}: exit code {done.returncode}\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}")
        records = [json.loads(file.read_text()) for file in Path(folder).glob("*/trials/*/record.json")]
    taken = [
        row["seconds"]
        for record in records
        for row in [row for row in record["epochs"] if row["trained_by"] == record["trial"]][UNCOUNTED:]
    ]
    each = statistics.median(taken) / options.trials
    return {
        "model_epoch_s": round(each, 4), "range": [round(end / options.trials, 4) for end in (min(taken), max(taken))],
        "n": len(taken), "epochs": sum(record["epochs_trained"] for record in records),
        "whole_command_s": round(seconds, 1),
        "precision": sorted({record["spec"]["precision"] for record in records}),
        "mps": sorted({str(record["gpu"]["mps"]) for record in records if "gpu" in record}),
        "target": target, "meets_target": each <= target and len(records) == 2 * options.trials,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
