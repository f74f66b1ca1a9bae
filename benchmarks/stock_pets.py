"""The peer of `pets_vs_stock.py`: the tutorial's trials with Ray Tune, fastai and fasterai, without this project.

    python benchmarks/stock_pets.py --data-root DIR --storage DIR --output FILE [--epochs 20]

A function trainable, one trial at a time, each with the whole GPU: fastai's Learner on ImageDataLoaders from the files,
with 8 loader processes, fasterai's SparsifyCallback as in its tutorial. Trains one ticket and one dense network for a
quarter of its epochs. FILE gets a JSON object: the seconds spent in `Tuner.fit` and the epochs' seconds of each trial.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from fastai.callback.core import Callback
from fastai.vision.all import ImageDataLoaders, Learner, Resize, accuracy, get_image_files, set_seed
from fasterai.sparse.all import Schedule, SparsifyCallback, large_final, sched_iterative
from ray import tune
from torch import nn
from torchvision.models import resnet18

BATCH_SIZE, LR, LOADERS = 64, 1e-3, 8


class Epochs(Callback):
    """Seconds of each epoch with its validation."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def before_epoch(self) -> None:
        self.began = now()

    def after_epoch(self) -> None:
        self.taken.append(now() - self.began)


def now() -> float:
    """The time at which the device has done all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def train_trial(config: dict[str, Any]) -> None:
    """Train a ticket, or a dense network if its sparsity is 0, and report with weights as a checkpoint."""
    set_seed(config["seed"])
    (images,) = (
        f for f in (Path(config["data_root"], "images"), *Path(config["data_root"]).glob("*/images")) if f.is_dir()
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dls = ImageDataLoaders.from_name_func(
        images, get_image_files(images), label_func=lambda name: name[0].isupper(), valid_pct=0.2, seed=0,
        bs=BATCH_SIZE, item_tfms=Resize(config["image_size"]), num_workers=config["loaders"], device=device,
    )  # fmt: skip
    learn, clock = Learner(dls, resnet18(num_classes=2), metrics=accuracy), Epochs()
    callbacks: list[Callback] = [clock]
    if config["sparsity_pct"]:
        schedule = Schedule(sched_iterative, start_pct=0.25)
        callbacks.append(SparsifyCallback(
            config["sparsity_pct"] / 100, "weight", "local", large_final, schedule, lth=True,
            rewind_epoch=config["rewind_epoch"],
        ))  # fmt: skip
    with learn.no_bar():
        learn.fit(config["epochs"], LR, cbs=callbacks)
    _, found = learn.validate()
    metrics = {"valid_accuracy": float(found), "sparsity_pct": sparsity_pct(learn.model), "seconds": clock.taken}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(learn.model.state_dict(), Path(folder, "ticket.pt"))
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def sparsity_pct(model: nn.Module) -> float:
    """Per cent of the convolutions' weights that are zero."""
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    return 100 * sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def main() -> None:
    """Train both trials on a Ray of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--storage", type=Path, required=True, help="folder for Ray's results; must be new")
    parser.add_argument("--output", type=Path, required=True, help="file for the JSON object")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=64)
    options = parser.parse_args()
    on_gpu, cores = torch.cuda.is_available(), os.cpu_count() or 1
    common = {"data_root": str(options.data_root.resolve()), "image_size": options.image_size, "seed": 0}
    common["loaders"] = min(LOADERS, cores)
    trials = [
        {"sparsity_pct": 50.0, "rewind_epoch": 1, "epochs": options.epochs},
        {"sparsity_pct": 0.0, "rewind_epoch": 0, "epochs": -(-options.epochs // 4)},
    ]
    ray.init(address="local")
    tuner = tune.Tuner(
        tune.with_resources(_of_trial, {"cpu": cores, "gpu": int(on_gpu)}),
        param_space={**common, "trial": tune.grid_search(trials)},
        run_config=tune.RunConfig(name="stock", storage_path=str(options.storage.resolve())),
    )
    started = time.perf_counter()
    results = tuner.fit()
    fit_s = time.perf_counter() - started
    if results.errors:
        raise RuntimeError(f"{len(results.errors)} of {len(results)} trials failed; the first: {results.errors[0]}")
    names = ("seconds", "sparsity_pct", "valid_accuracy")
    rows = [{"asked": result.config["trial"], **{name: result.metrics[name] for name in names}} for result in results]
    options.output.write_text(json.dumps({"fit_s": fit_s, "trials": rows}))


def _of_trial(config: dict[str, Any]) -> None:
    train_trial({**config, **config["trial"]})


if __name__ == "__main__":
    main()
