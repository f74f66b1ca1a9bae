"""Training on one GPU: a bare loop of CUDA graphs, our whole trial, our trial without graphs, and stock fastai.

    python benchmarks/gpu_step.py --data-root DIR [--tasks pets cifar mnist] [--repeats 2] [--precision bf16] [--stock]
        [--compile]

A *bare loop* is what the card can do with PyTorch: one CUDA graph of a step (the batch gathered from images on the
GPU and augmented as in the trial, forward, loss, backward, fused optimiser, mask), replayed. It validates nothing,
stores nothing and has no Learner. *Ours* is `run_trial` with everything that a trial does, validation each epoch
included. Seconds an epoch are medians over all epochs but the first two of each run, of `repeats` runs, in turns.
`--compile` adds our trial through `torch.compile`, with the time of its first epochs, in which the compiler works.
`--stock` adds a stock Learner with fasterai's callback for the pictures, which reads files through 8 worker processes.
Prints one JSON object.

Tasks: `pets` ResNet-18 at 64 px, batch 64, from `DIR`; `cifar` ResNet-20, batch 128, flips and shifts, random images as
many as CIFAR-10's; `mnist` LeNet-300-100, batch 60, random images as many as MNIST's.
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

from lth_trainable.data.augment import AUGMENTATIONS
from lth_trainable.data.datasets import load_dataset
from lth_trainable.models.networks import build
from lth_trainable.seeds import generator
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.tensors import multiply
from lth_trainable.training.execution import Execution, prepared
from lth_trainable.training.run import run_trial

PETS: dict[str, Any] = {
    "dataset": "pets", "model": "resnet18", "batch_size": 64, "lr": 1e-3, "beta2": 0.99, "eps": 1e-5, "epochs": 8,
    "weight_decay": 0.01, "schedule": "one_shot", "start_pct": 0.25, "rewind_epoch": 1, "target_sparsity_pct": 50.0,
}  # fmt: skip
CIFAR: dict[str, Any] = {
    "dataset": "benchmarks.random_images:like_cifar10", "model": "resnet20", "batch_size": 128, "optimizer": "sgd",
    "lr": 0.01, "beta2": None, "eps": None, "augment": "flip_shift", "epochs": 5, "schedule": "one_shot",
    "start_pct": 0.2, "rewind_epoch": 0, "target_sparsity_pct": 50.0,
}  # fmt: skip
MNIST: dict[str, Any] = {
    "dataset": "benchmarks.random_images:like_mnist", "model": "lenet_300_100", "batch_size": 60, "epochs": 8,
    "schedule": "one_shot", "start_pct": 0.25, "rewind_epoch": 1, "target_sparsity_pct": 50.0,
}  # fmt: skip
TASKS = {"pets": PETS, "cifar": CIFAR, "mnist": MNIST}
UNCOUNTED = 2  # epochs at the start: an eager step, captures, the choice of kernels


def main() -> int:
    """Measure the sides in turns; returns the exit code, 1 if a step was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--eager", action="store_true", help="also our trial without graphs")
    parser.add_argument("--compile", action="store_true", help="also our trial through torch.compile")
    parser.add_argument("--stock", action="store_true", help="also stock fastai, for the pictures")
    parser.add_argument("--stock-alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stock_alone:
        print(json.dumps(stock(options.data_root, 4)))
        return 0
    notes: list[str] = []
    asked = {"captured": True, "eager": options.eager, "compiled": options.compile}
    sides = [side for side, is_asked in asked.items() if is_asked]
    found = {}
    for name in options.tasks:
        spec = TrialSpec(**TASKS[name], precision=options.precision)
        seconds: dict[str, list[float]] = {}
        first: dict[str, float] = {}
        for _ in range(options.repeats):
            seconds.setdefault("bare", []).extend(bare(spec, options))
            for side in sides:
                rows = ours(spec, side, options, notes)["epochs"]
                seconds.setdefault(side, []).extend(row["seconds"] for row in rows if row["epoch"] >= UNCOUNTED)
                first.setdefault(side, sum(row["seconds"] for row in rows if row["epoch"] < UNCOUNTED))
            if options.stock and name == "pets":
                seconds.setdefault("stock", []).extend(peer(options.data_root))
        median = {side: statistics.median(of) for side, of in seconds.items()}
        found[name] = {
            "seconds_an_epoch": {side: round(value, 4) for side, value in median.items()},
            "range": {side: [round(min(of), 4), round(max(of), 4)] for side, of in seconds.items()},
            "by_bare": {side: round(value / median["bare"], 2) for side, value in median.items()},
            "first_epochs": {side: round(value, 2) for side, value in first.items()},
            "n": {side: len(of) for side, of in seconds.items()},
        }
    print(json.dumps({
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "precision": options.precision,
        "deterministic": options.deterministic, "tasks": found, "refused": notes,
    }, indent=1))  # fmt: skip
    return 1 if notes else 0


def ours(spec: TrialSpec, side: str, options: argparse.Namespace, notes: list[str]) -> dict[str, Any]:
    """The record of the trial, trained alone. side: "captured", "eager" or "compiled" (and captured)."""
    with tempfile.TemporaryDirectory() as folder:
        execution = Execution(
            device="cuda", deterministic=options.deterministic, data_root=options.data_root,
            step="eager" if side == "eager" else "captured", compile=side == "compiled",
        )  # fmt: skip
        return run_trial(spec, Store(folder), execution=execution, on_note=notes.append)


def bare(spec: TrialSpec, options: argparse.Namespace) -> list[float]:
    """Seconds of epochs of a loop of graph replays."""
    execution = Execution(device="cuda", deterministic=options.deterministic, data_root=options.data_root)
    data = load_dataset(spec.dataset, options.data_root, spec.split_seed, spec.image_size)
    with prepared(execution, spec.precision):
        return _bare(spec, data)


def _bare(spec: TrialSpec, data: Any) -> list[float]:
    device, n, size = torch.device("cuda"), len(data.train), spec.batch_size
    model = build(spec.model, data.shape, len(data.classes)).to(device)
    images, labels = torch.from_numpy(data.train.x).to(device), torch.from_numpy(data.train.y).to(device)
    is_image = any(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    if is_image:
        model, images = (it.to(memory_format=torch.channels_last) for it in (model, images))
    weights = [w for w in model.parameters() if w.ndim > 1]
    masks = [(torch.rand_like(w) < 0.5).float() for w in weights]
    if spec.optimizer == "adam":
        optimizer: Any = torch.optim.AdamW(
            model.parameters(), lr=spec.lr, weight_decay=spec.weight_decay, fused=True, capturable=True
        )
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=spec.lr, momentum=spec.momentum, fused=True)
    order, number = torch.empty(n, dtype=torch.int64, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    draws = None
    if spec.augment != "none":
        draws = AUGMENTATIONS[spec.augment].draw(n, data.shape[-1], generator(0, "augment", 0), device)
    loss_func, autocast = torch.nn.CrossEntropyLoss(), spec.precision in ("bf16", "fp16")
    full = n // size

    def step(count: int) -> None:
        index = order[full * size :] if count < size else order[: full * size].view(full, size)[number].view(-1)
        x = images.permute(0, 2, 3, 1)[index].permute(0, 3, 1, 2) if is_image else images[index]
        x = x if draws is None else draws(x, index)
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = loss_func(model(x).float(), labels[index])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        multiply([w.detach() for w in weights], masks)
        number.add_(1)

    counts = [size] * full + ([n - full * size] if n % size else [])
    order.copy_(torch.randperm(n))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for count in dict.fromkeys(counts):
            for _ in range(3):
                number.zero_()
                step(count)
    torch.cuda.current_stream().wait_stream(side)
    graphs = {}
    for count in dict.fromkeys(counts):
        graphs[count] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[count]):
            step(count)
    seconds = []
    for _ in range(6):
        torch.cuda.synchronize()
        began = time.perf_counter()
        order.copy_(torch.randperm(n))
        number.zero_()
        for count in counts:
            graphs[count].replay()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def peer(data_root: Path) -> list[float]:
    """What `stock` finds in a new process."""
    command = [sys.executable, __file__, "--data-root", str(data_root), "--stock-alone"]
    found: list[float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def stock(data_root: Path, epochs: int) -> list[float]:
    """Seconds of the epochs of a stock Learner with fasterai's callback, the first left out."""
    from fastai.callback.core import Callback
    from fastai.vision.all import ImageDataLoaders, Learner, Resize, accuracy, get_image_files
    from fasterai.sparse.all import Schedule, SparsifyCallback, large_final, sched_iterative
    from torchvision.models import resnet18

    class Epochs(Callback):
        taken: list[float] = []  # noqa: RUF012

        def before_epoch(self) -> None:
            torch.cuda.synchronize()
            self.began = time.perf_counter()

        def after_epoch(self) -> None:
            torch.cuda.synchronize()
            self.taken.append(time.perf_counter() - self.began)

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
