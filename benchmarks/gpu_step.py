"""One trial on one GPU: stock fastai with fasterai, our trial kernel by kernel, and with its steps as one CUDA graph.

    python benchmarks/gpu_step.py --data-root DIR [--epochs 8] [--repeats 3]

The tutorial's network and data: ResNet-18 from scratch, pictures of 64 px from `DIR` (see `pets_tutorial`), batch 64, a
prune to 50 % with a reset to epoch 1. The peer, in a process of its own, is a stock Learner that reads the pictures'
files through its own DataLoaders with 8 worker processes. Our trial runs as a worker runs it, states stored in a
temporary folder. Seconds an epoch are medians over epochs but the first of each run, of `repeats` runs, in turns. Also
LeNet-300-100 on digits, where a step is next to nothing. Our two ways must give equal bytes, and no step may be
refused, else exit code 1. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.vision.all import ImageDataLoaders, Learner, Resize, accuracy, get_image_files
from fasterai.sparse.all import Schedule, SparsifyCallback, large_final, sched_iterative

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.execution import Execution
from lth_trainable.training.run import run_trial

PETS: dict[str, Any] = {
    "dataset": "pets", "model": "resnet18", "batch_size": 64, "lr": 1e-3, "beta2": 0.99, "eps": 1e-5,
    "weight_decay": 0.01, "schedule": "iterative", "start_pct": 0.25, "rewind_epoch": 1, "target_sparsity_pct": 50.0,
}  # fmt: skip
DIGITS: dict[str, Any] = {"target_sparsity_pct": 64.0, "rewind_epoch": 1}


def main() -> int:
    """Measure the sides in turns; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stock", action="store_true", help="the peer's side of one repeat")
    options = parser.parse_args()
    if options.stock:
        print(json.dumps(stock(options.data_root, options.epochs)))
        return 0
    pets, digits = TrialSpec(**PETS, epochs=options.epochs), TrialSpec(**DIGITS, epochs=20)
    seconds: dict[str, list[float]] = {}
    hashes: dict[str, set[str]] = {}
    notes: list[str] = []
    for _ in range(options.repeats):
        seconds.setdefault("stock", []).extend(peer(sys.argv[1:]))
        for name, spec in (("pets", pets), ("digits", digits)):
            for step in ("eager", "captured"):
                record = ours(spec, step, options.data_root, notes)
                rows = [row["seconds"] for row in record["epochs"] if row["epoch"] > 0]
                seconds.setdefault(f"{name} {step}", []).extend(rows)
                hashes.setdefault(name, set()).add(json.dumps(record["sha256"], sort_keys=True))
    same = all(len(found) == 1 for found in hashes.values())
    median = {name: statistics.median(of) for name, of in seconds.items()}
    print(json.dumps({
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "epochs": options.epochs,
        "seconds_an_epoch": {name: round(value, 4) for name, value in median.items()},
        "range": {name: [round(min(of), 4), round(max(of), 4)] for name, of in seconds.items()},
        "stock_by_captured": round(median["stock"] / median["pets captured"], 2),
        "eager_by_captured": {n: round(median[f"{n} eager"] / median[f"{n} captured"], 2) for n in hashes},
        "same_bytes": same, "refused": notes,
    }, indent=1))  # fmt: skip
    return 0 if same and not notes else 1


def peer(arguments: list[str]) -> list[float]:
    """What `stock` finds in a new process."""
    command = [sys.executable, __file__, *arguments, "--stock"]
    found: list[float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def ours(spec: TrialSpec, step: str, data_root: Path, notes: list[str]) -> dict[str, Any]:
    """The record of the trial, trained alone."""
    with tempfile.TemporaryDirectory() as folder:
        execution = Execution(device="cuda", deterministic=True, step=step, data_root=data_root)
        return run_trial(spec, Store(folder), execution=execution, on_note=notes.append)


class Epochs(Callback):
    """Seconds of each epoch, to when the GPU is done with it."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def before_epoch(self) -> None:
        torch.cuda.synchronize()
        self.began = time.perf_counter()

    def after_epoch(self) -> None:
        torch.cuda.synchronize()
        self.taken.append(time.perf_counter() - self.began)


def stock(data_root: Path, epochs: int) -> list[float]:
    """Seconds of the epochs of a stock Learner with fasterai's callback, the first left out."""
    from torchvision.models import resnet18

    (images,) = (folder for folder in (data_root / "images", *data_root.glob("*/images")) if folder.is_dir())
    dls = ImageDataLoaders.from_name_func(
        images, get_image_files(images), label_func=lambda name: name[0].isupper(), valid_pct=0.2, seed=0, bs=64,
        item_tfms=Resize(64), num_workers=8, device=torch.device("cuda"),
    )  # fmt: skip
    learn, clock = Learner(dls, resnet18(num_classes=2), metrics=accuracy), Epochs()
    schedule = Schedule(sched_iterative, start_pct=0.25)
    sparsify = SparsifyCallback(0.5, "weight", "local", large_final, schedule, lth=True, rewind_epoch=1)
    with learn.no_bar(), learn.no_logging(), contextlib.redirect_stdout(io.StringIO()):
        learn.fit(epochs, 1e-3, cbs=[sparsify, clock])
    return clock.taken[1:]


if __name__ == "__main__":
    sys.exit(main())
