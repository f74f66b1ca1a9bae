"""The peer: the tutorial's grid as it is written today with Ray Tune, fastai and fasterai, without this project.

    python benchmarks/stock_sweep.py --storage DIR --output FILE [--sparsity 50 80] [--rewind-epoch 0] [--seed 0 1]

A function trainable per ticket, `tune.grid_search` over the axes, one CPU and one process a trial (Ray Tune's default),
fastai's Learner with its usual callbacks and its own Adam, fasterai's SparsifyCallback. Only the data and the network
come from `lth_trainable`, so that both sides train the same on the same pictures; the arrays go into Ray's object store
once, by `tune.with_parameters`. Masks and weights are saved as a Ray checkpoint. FILE gets a JSON object with the
seconds spent in `Tuner.fit` and what each ticket measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from fastai.vision.all import Adam, CrossEntropyLossFlat, DataLoaders, Learner, accuracy, set_seed
from fasterai.sparse.all import Schedule, SparsifyCallback, large_final, sched_iterative
from ray import tune
from torch import nn
from torch.utils.data import TensorDataset

from lth_trainable.data.datasets import Dataset, load_dataset
from lth_trainable.models.networks import MODELS

EPOCHS, BATCH_SIZE, LR = 20, 60, 1.2e-3


def train_ticket(config: dict[str, Any], data: Dataset) -> None:
    """Find one ticket and report what it measures, with weights and masks as a checkpoint."""
    started = time.perf_counter()
    set_seed(config["seed"])
    learn = make_learner(data)
    with learn.no_bar():
        learn.fit(EPOCHS, LR, cbs=make_callback(config["sparsity_pct"], config["rewind_epoch"]))
        _, valid_accuracy = learn.validate(ds_idx=1)
        _, test_accuracy = learn.validate(ds_idx=2)
    masks = masks_of(learn.model)
    metrics = {
        "valid_accuracy": valid_accuracy,
        "test_accuracy": test_accuracy,
        "sparsity_pct": sparsity_pct(masks),
        "seconds_in_trial": time.perf_counter() - started,
    }
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"weights": learn.model.state_dict(), "masks": masks}, Path(folder, "ticket.pt"))
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def make_learner(data: Dataset) -> Learner:
    """A stock Learner; nothing but Adam's constants differs from fastai's defaults.

    No loader processes: the tensors are in memory and a trial has one CPU. The last, smaller batch is kept, as on our
    side.
    """
    parts = [TensorDataset(torch.tensor(part.x), torch.tensor(part.y)) for part in (data.train, data.valid, data.test)]
    dls = DataLoaders.from_dsets(*parts, bs=BATCH_SIZE, num_workers=0, drop_last=False, device=torch.device("cpu"))
    adam = partial(Adam, mom=0.9, sqr_mom=0.999, eps=1e-8, wd=0.0)
    return Learner(dls, make_model(data), loss_func=CrossEntropyLossFlat(), opt_func=adam, metrics=accuracy)


def make_model(data: Dataset) -> nn.Module:
    """LeNet-300-100. Apart, as cloudpickle takes `torch` beside an attribute `classes` for the module torch.classes."""
    return MODELS["lenet_300_100"](data.shape, len(data.classes))


def make_callback(target_pct: float, rewind_epoch: int) -> SparsifyCallback:
    """Three prunes with resets from a quarter of the fit on; fasterai takes fractions and by default prunes Conv2d."""
    schedule = Schedule(sched_iterative, start_pct=0.25)
    return SparsifyCallback(
        target_pct / 100, "weight", "local", large_final, schedule, lth=True, rewind_epoch=rewind_epoch,
        layer_type=nn.Linear,
    )  # fmt: skip


def masks_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Masks by layer, from the weights: fasterai drops its own when the fit ends."""
    return {name: m.weight.detach() != 0 for name, m in model.named_modules() if isinstance(m, nn.Linear)}


def sparsity_pct(masks: dict[str, torch.Tensor]) -> float:
    """Per cent of the prunable weights that are zero."""
    kept, total = sum(int(mask.sum()) for mask in masks.values()), sum(mask.numel() for mask in masks.values())
    return 100 * (1 - kept / total)


def sweep(options: argparse.Namespace) -> dict[str, Any]:
    """Run the grid on a Ray of its own; returns the seconds in `Tuner.fit` and a row a ticket."""
    ray.init(address="local")
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train_ticket, data=load_dataset("digits")), {"cpu": 1}),
        param_space={
            "sparsity_pct": tune.grid_search(options.sparsity),
            "rewind_epoch": tune.grid_search(options.rewind_epoch),
            "seed": tune.grid_search(options.seed),
        },
        tune_config=tune.TuneConfig(metric="test_accuracy", mode="max"),
        run_config=tune.RunConfig(name="stock", storage_path=str(options.storage.resolve())),
    )
    started = time.perf_counter()
    results = tuner.fit()
    fit_s = time.perf_counter() - started
    if results.errors:
        raise RuntimeError(f"{len(results.errors)} of {len(results)} trials failed; the first: {results.errors[0]}")
    return {"fit_s": fit_s, "tickets": [row(result) for result in results]}


def row(result: tune.Result) -> dict[str, Any]:
    """The axes of a ticket and what it measured."""
    names = ("sparsity_pct", "valid_accuracy", "test_accuracy", "seconds_in_trial", "pid")
    config = {"target_sparsity_pct": result.config["sparsity_pct"]}
    config |= {name: result.config[name] for name in ("rewind_epoch", "seed")}
    return config | {name: result.metrics[name] for name in names}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", type=Path, required=True, help="folder for Ray's results; must be new")
    parser.add_argument("--output", type=Path, required=True, help="file for the JSON object")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[50, 80, 90, 95], help="per cent of the weights")
    parser.add_argument("--rewind-epoch", type=int, nargs="+", default=[0, 1], help="epoch to reset to")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="replicates")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse()
    options.output.write_text(json.dumps(sweep(options)))
