"""A training step of `digits` on one CPU core: in a trial, and in a bare loop of PyTorch on the same core.

    python benchmarks/cpu_step.py [--rounds 15] [--epochs 20] [--optimizer adam]

Prints one JSON object. Seconds are CPU seconds, which other work on the machine disturbs less than wall time. The exit
code is 1 if a step takes more than 1.25 times the bare loop, or if both do not end with the same weights, bit for bit.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from fractions import Fraction
from typing import Any

import torch
from fastai.callback.core import Callback
from torch import nn

from lth_trainable.data.datasets import load_dataset
from lth_trainable.pruning.snapshot import Snapshot
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.training.execution import Execution, prepared
from lth_trainable.training.learner import LevelClock
from lth_trainable.training.trial import Trial

TARGET = 1.25
SPARSITY = Fraction(64, 100)
SETTINGS = {"adam": 1.2e-3, "sgd": 0.05}  # the learning rate of each optimiser


class Training(Callback):
    """CPU seconds of the training part of each epoch, from the first batch to the last; validation is not in it."""

    order = 99  # the last before the first batch

    def __init__(self) -> None:
        self.taken: list[float] = []

    def before_train(self) -> None:
        self.began = time.process_time()

    def after_train(self) -> None:
        self.taken.append(time.process_time() - self.began)


class Bare:
    """The same training without a learner: forward, loss, backward, PyTorch's fused optimiser, mask multiply.

    network, pruner: as the trial has them; both start from the same weights. Batches lie ready, in the trial's order.
    """

    def __init__(self, trial: Trial, epochs: int) -> None:
        self.model = copy.deepcopy(trial.model)
        stock = trial.learn.opt.opt
        settings = {name: value for name, value in stock.defaults.items() if name != "decoupled_weight_decay"}
        self.optimizer = type(stock)(self.model.parameters(), **settings)
        self.loss = nn.CrossEntropyLoss()
        assert trial.pruner is not None
        own = dict(self.model.named_parameters())
        self.weights = [own[layer.parameter_name] for layer in trial.pruner.layers]
        self.factors = trial.pruner.factors()
        train, self.batches = trial.dls.train, []
        for train.epoch in range(epochs):
            self.batches.append(list(train))

    @torch.no_grad()
    def mask(self) -> None:
        torch._foreach_mul_(self.weights, self.factors)

    def fit(self) -> list[float]:
        """CPU seconds of each epoch."""
        model, optimizer, loss_of, taken = self.model, self.optimizer, self.loss, []
        for batches in self.batches:
            began = time.process_time()
            for x, y in batches:
                loss = loss_of(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                self.mask()
            taken.append(time.process_time() - began)
        return taken


def main() -> int:
    """Measure both in turns; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="times that each side trains a level")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of a level")
    parser.add_argument("--optimizer", choices=("adam", "sgd"), default="adam")
    options = parser.parse_args()
    spec = TrialSpec(
        optimizer=options.optimizer, lr=SETTINGS[options.optimizer], target_sparsity_pct=64.0, epochs=options.epochs
    )
    with prepared(Execution(), spec.precision):
        found = measured(spec, options)
    print(json.dumps(found, indent=1))
    return 0 if found["same_bytes"] and found["meets_target"] else 1


def measured(spec: TrialSpec, options: argparse.Namespace) -> dict[str, Any]:
    """Train both in turns, from the same weights each time."""
    load = os.getloadavg()[0]
    trial = Trial(spec, load_dataset(spec.dataset), Execution(), None)
    trial.callback.prune(SPARSITY)
    start = Snapshot(trial.model, trial.learn.opt)
    pairs: list[tuple[float, float]] = []
    same = True
    for number in range(options.rounds + 1):
        bare, training = Bare(trial, options.epochs), Training()
        trial.fit(0, options.epochs, LevelClock(), training)
        taken = bare.fit()
        same &= all(map(torch.equal, bare.model.parameters(), trial.model.parameters()))
        if number:  # the first round is not counted: much is made once in a process
            pairs.append((statistics.median(training.taken), statistics.median(taken)))
        start.restore(trial.model, trial.learn.opt)
    return figures(pairs, trial.steps_per_epoch, options, load) | {"same_bytes": same}


def figures(pairs: list[tuple[float, float]], steps: int, options: argparse.Namespace, load: float) -> dict[str, Any]:
    """What is printed: milliseconds a step, and how many times the bare loop a trial takes."""
    ours, bare = ([1000 * pair[side] / steps for pair in pairs] for side in (0, 1))
    ratios = [a / b for a, b in pairs]
    return {
        "torch": torch.__version__, "threads": torch.get_num_threads(), "cores": os.cpu_count(), "load_before": load,
        "optimizer": options.optimizer, "steps_an_epoch": steps, "epochs": options.epochs, "n": len(pairs),
        "ms_a_step": {"trial": round(statistics.median(ours), 4), "bare": round(statistics.median(bare), 4)},
        "range": {
            "trial": [round(min(ours), 4), round(max(ours), 4)], "bare": [round(min(bare), 4), round(max(bare), 4)],
        },
        "ratio": round(statistics.median(ratios), 3),
        "quartiles": [round(value, 3) for value in statistics.quantiles(ratios, n=4)[::2]],
        "target": TARGET, "meets_target": statistics.median(ratios) <= TARGET,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
