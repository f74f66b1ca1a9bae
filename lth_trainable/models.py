"""The networks, by name. A builder is `f(shape, n_classes) -> nn.Module`; `shape` is (channels, height, width).

Builders import torch when called, so that the names can be checked without it. They draw their initial weights from
torch's global stream, which the caller seeds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from lth_trainable.errors import UserError

if TYPE_CHECKING:
    from torch import nn

Builder = Callable[[tuple[int, int, int], int], "nn.Module"]


def lenet_300_100(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """Two hidden layers of 300 and 100, ReLU, Gaussian Glorot weights, zero biases (arXiv 1803.03635, sec. 2, app. G).

    Biases are zero here; the paper does not say.
    """
    from torch import nn

    sizes = [math.prod(shape), 300, 100, n_classes]
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in itertools.pairwise(sizes):
        linear = nn.Linear(n_in, n_out)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def resnet18(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """torchvision's ResNet-18 (He et al., arXiv 1512.03385), untrained; pictures must have three channels."""
    from torchvision.models import resnet18 as build

    if shape[0] != 3:
        raise UserError(f"resnet18: found pictures of {shape[0]} channel(s); expected 3; choose another --model")
    return build(num_classes=n_classes)


MODELS: dict[str, Builder] = {"lenet_300_100": lenet_300_100, "resnet18": resnet18}
