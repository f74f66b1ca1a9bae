"""The loss and accuracy of a network on all images of a loader."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lth_trainable.silence import pulse
from lth_trainable.stopwatch import part
from lth_trainable.training.compiled import compiled
from lth_trainable.training.precision import Autocast


class Sums(NamedTuple):
    """Over all images of a loader: the sum of the losses, the number of right answers; is each image right, (n,) bool.

    The first two are tensors () on the device.
    """

    loss: Tensor
    correct: Tensor
    right: Tensor


class Measured(NamedTuple):
    """Results on all images of a loader: mean loss, accuracy (fraction), and whether each image is right, (n,) bool."""

    loss: float
    accuracy: float
    right: Tensor


@torch.no_grad()
def evaluate(model: nn.Module, loader: Any, loss_func: Any, autocast: Autocast | None = None) -> Sums:
    """Evaluate a model on all images of a loader, without waiting for the device. Changes nothing.

    autocast: the precision of the network's output, if that is not the precision of its weights.
    """
    training, loss, correct, right = model.training, torch.tensor(0.0), torch.tensor(0), []
    model.eval()
    with compiled(model):
        for x, y in loader:
            output = model(x) if autocast is None else autocast.output(model, x)
            loss = loss + loss_func(output, y) * len(y)
            right.append(output.argmax(1) == y)
            correct = correct + right[-1].sum()
            pulse.beat()
    model.train(training)
    return Sums(loss, correct, torch.cat(right))


@part("validation")
def measure(model: nn.Module, loader: Any, loss_func: Any, autocast: Autocast | None = None) -> Measured:
    """Evaluate a model on all images of a loader, as in an epoch's validation. Changes nothing."""
    found = evaluate(model, loader, loss_func, autocast)
    n = len(found.right)
    return Measured(float(found.loss) / n, float(found.correct) / n, found.right)


def balanced_accuracy(y: Tensor, right: Tensor) -> float:
    """Mean accuracy over the classes in `y`, each class counting the same. y: class numbers (n,). right: bool (n,)."""
    labels = y.cpu().numpy()
    n, hits = np.bincount(labels), np.bincount(labels, weights=right.cpu().numpy())
    return float(np.mean(hits[n > 0] / n[n > 0]))
