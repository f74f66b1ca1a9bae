"""The networks by name. A builder is `f(shape, n_classes) -> nn.Module`; `shape` is (channels, height, width).

A builder that also takes `width_pct` (percent of the original width) can build narrower networks. Builders import torch
when they are called, so that names can be checked without torch. They draw initial weights from torch's global random
stream, which the caller seeds.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lth_trainable.errors import PLUG_IN, UserError, unknown_name, words_of
from lth_trainable.models.libraries import library_name, library_network
from lth_trainable.registry import LIBRARIES, lookup, printing_aside

if TYPE_CHECKING:
    from torch import nn

Builder = Callable[..., "nn.Module"]


def lenet_300_100(shape: tuple[int, int, int], n_classes: int, width_pct: float = 100.0) -> nn.Module:
    """Two hidden layers of 300 and 100, ReLU, Gaussian Glorot weights, zero biases (arXiv 1803.03635, sec. 2, app. G).

    Biases are zero here; the paper does not say.
    """
    from torch import nn

    sizes = [math.prod(shape), *narrowed((300, 100), width_pct), n_classes]
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in itertools.pairwise(sizes):
        linear = nn.Linear(n_in, n_out)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def resnet18(shape: tuple[int, int, int], n_classes: int, width_pct: float = 100.0) -> nn.Module:
    """torchvision's ResNet-18 (He et al., arXiv 1512.03385), untrained; images must have three channels.

    A narrower one has the same blocks, names and initialisation, with fewer channels.
    """
    check_images("resnet18", shape)
    from lth_trainable.models.torchvision_networks import models

    return models.resnet18(num_classes=n_classes) if width_pct == 100 else _narrow_resnet18(n_classes, width_pct)


def _narrow_resnet18(n_classes: int, width_pct: float) -> nn.Module:
    """ResNet-18 from torchvision's blocks, because torchvision's own class has fixed widths."""
    from torch import nn

    stem, *widths = narrowed((64, 64, 128, 256, 512), width_pct)
    first: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False), "bn1": nn.BatchNorm2d(stem),
        "relu": nn.ReLU(inplace=True), "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
    }  # fmt: skip
    network = _of_blocks(first, (stem, *widths), 2, n_classes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def resnet20(shape: tuple[int, int, int], n_classes: int, width_pct: float = 100.0) -> nn.Module:
    """The ResNet-20 for CIFAR-10 (He et al., arXiv 1512.03385, sec. 4.2): 16, 32 and 64 channels, 0.27 M weights.

    Where channels and size change, the shortcut is a 1x1 convolution with a norm (option B there), as in Renda et al.
    (arXiv 2003.02389) and OpenLTH; elsewhere it is the identity. (In the code of Renda et al. the first block has one
    too, 256 weights more.) Convolutions and the dense layer start Kaiming normal by fan-in, norms at 1 and 0 (OpenLTH
    draws their scales from U(0, 1)), the dense layer's biases at 0. Images may have any size and number of channels.
    """
    from torch import nn

    stem, *widths = narrowed((16, 16, 32, 64), width_pct)
    first: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(shape[0], stem, 3, padding=1, bias=False), "bn1": nn.BatchNorm2d(stem),
        "relu": nn.ReLU(inplace=True),
    }  # fmt: skip
    network = _of_blocks(first, (stem, *widths), 3, n_classes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    nn.init.zeros_(network.get_parameter("fc.bias"))
    return network


def _of_blocks(first: dict[str, nn.Module], widths: Sequence[int], depth: int, n_classes: int) -> nn.Module:
    """A residual network: first layers, groups of `depth` of torchvision's blocks, a dense layer.

    widths: channels of the first layers, then of each group of blocks; each group after the first halves the image.
    """
    from torch import nn

    from lth_trainable.models.torchvision_networks import models

    BasicBlock, conv1x1 = models.resnet.BasicBlock, models.resnet.conv1x1
    parts = dict(first)
    for number, (n_in, n_out) in enumerate(itertools.pairwise(widths), 1):
        down = nn.Sequential(conv1x1(n_in, n_out, 2), nn.BatchNorm2d(n_out)) if number > 1 else None
        blocks = [BasicBlock(n_in, n_out, 1 if down is None else 2, down)]
        blocks += [BasicBlock(n_out, n_out) for _ in range(depth - 1)]
        parts[f"layer{number}"] = nn.Sequential(*blocks)
    parts |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(widths[-1], n_classes)}
    return nn.Sequential(OrderedDict(parts))


def conv_2(shape: tuple[int, int, int], n_classes: int, width_pct: float = 100.0) -> nn.Module:
    """Conv-2 of Frankle & Carbin (arXiv 1803.03635, fig. 2): two convolutions and a pool. See `conv_6`."""
    return _conv("conv_2", shape, n_classes, width_pct)


def conv_4(shape: tuple[int, int, int], n_classes: int, width_pct: float = 100.0) -> nn.Module:
    """Conv-4 of Frankle & Carbin (arXiv 1803.03635, fig. 2): two convolutions and a pool, twice. See `conv_6`."""
    return _conv("conv_4", shape, n_classes, width_pct)


def conv_6(shape: tuple[int, int, int], n_classes: int, width_pct: float = 100.0) -> nn.Module:
    """Conv-6 of Frankle & Carbin (arXiv 1803.03635, fig. 2): two convolutions and a pool, three times.

    3x3 convolutions with 64, 128 and 256 channels, padded, max pooling by 2, dense layers of 256 and 256, ReLU. Weights
    are Gaussian Glorot, biases start at zero. Images need at least 2, 4 and 8 pixels a side (`SMALLEST`). For Conv-6
    the table of the paper says 1.7 M weights; its layers have 2.26 M for 32 x 32 pixels.
    """
    return _conv("conv_6", shape, n_classes, width_pct)


def _conv(name: str, shape: tuple[int, int, int], n_classes: int, width_pct: float) -> nn.Module:
    from torch import nn

    check_images(name, shape)
    widths = [n for n in narrowed(CONV_WIDTHS[name], width_pct) for _ in range(2)]
    side = 2 ** len(CONV_WIDTHS[name])
    parts: dict[str, nn.Module] = {}
    for number, (n_in, n_out) in enumerate(itertools.pairwise((shape[0], *widths)), 1):
        parts |= {f"conv{number}": nn.Conv2d(n_in, n_out, 3, padding=1), f"relu{number}": nn.ReLU()}
        if number % 2 == 0:
            parts[f"pool{number // 2}"] = nn.MaxPool2d(2)
    parts["flatten"] = nn.Flatten()
    sizes = [widths[-1] * (shape[1] // side) * (shape[2] // side), *narrowed(CONV_DENSE, width_pct), n_classes]
    for number, (n_in, n_out) in enumerate(itertools.pairwise(sizes), 1):
        parts |= {f"fc{number}": nn.Linear(n_in, n_out), f"fc_relu{number}": nn.ReLU()}
    del parts[f"fc_relu{len(sizes) - 1}"]
    for module in parts.values():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(module.weight)
            nn.init.constant_(module.get_parameter("bias"), 0.0)
    return nn.Sequential(OrderedDict(parts))


CONV_WIDTHS = {"conv_2": (64,), "conv_4": (64, 128), "conv_6": (64, 128, 256)}  # channels of each two convolutions
CONV_DENSE = (256, 256)


def narrowed(sizes: Sequence[int], width_pct: float) -> list[int]:
    """Each size times the width, rounded to the nearest whole number, at least 1."""
    return [max(1, math.floor(size * width_pct / 100 + 0.5)) for size in sizes]


def find_builder(name: str) -> Builder:
    """The builder of the network of this name: of `MODELS`, of a library, or a plug-in. Raises `UserError`.

    A network of a library is `torchvision:NAME` or `timm:NAME`.
    """
    if name.partition(":")[0] in LIBRARIES and ":" in name:
        return library_network(name)
    if name not in MODELS and ":" not in name:
        found = library_name(name)
        raise unknown_name("model", name, MODELS, {name.lower(): found} if found is not None else {}, PLUG_IN)
    builder: Builder = lookup("model", name, MODELS)
    return builder


CHANNELS = {"resnet18": 3}  # of the images that a network of `MODELS` needs, if it does not take any number
SMALLEST = {name: 2 ** len(widths) for name, widths in CONV_WIDTHS.items()}  # side of images that leaves one pixel


def check_images(name: str, shape: tuple[int, int, int]) -> None:
    """Raise `UserError` if the network of this name in `MODELS` cannot take images of this shape. Needs no torch."""
    if shape[0] != CHANNELS.get(name, shape[0]):
        raise UserError(
            f"{name}: found images of {shape[0]} channel(s); expected {CHANNELS[name]}; choose another --model"
        )
    if min(shape[1:]) < SMALLEST.get(name, 1):
        raise UserError(
            f"{name}: found images of {shape[1]} x {shape[2]} pixels; expected at least {SMALLEST[name]} a side, "
            f"because they are halved {len(CONV_WIDTHS[name])} times; choose another --model"
        )


MODELS: dict[str, Builder] = {
    "lenet_300_100": lenet_300_100, "resnet18": resnet18, "resnet20": resnet20, "conv_2": conv_2, "conv_4": conv_4,
    "conv_6": conv_6,
}  # fmt: skip


_OF_TORCHVISION = ("resnet18", "resnet20")
_LIBRARIES = {"torchvision": "lth_trainable.models.torchvision_networks", "timm": "timm"}


def module_of(name: str) -> str | None:
    """The module that building this network imports for a library, besides torch; None if it needs none."""
    return _LIBRARIES.get("torchvision" if name in _OF_TORCHVISION else name.partition(":")[0])


def build(name: str, shape: tuple[int, int, int], n_classes: int, width_pct: float | None = None) -> nn.Module:
    """Build the untrained network of this name (see `find_builder`). width_pct: None for its own.

    Raises `UserError` for a width if the builder does not take one, and for images that a library's network does not.
    """
    builder = find_builder(name)
    if width_pct is None:
        return builder(shape, n_classes)
    if "width_pct" not in inspect.signature(builder).parameters:
        raise UserError(
            f"width_pct: found {width_pct:g} for the network {name}, which has no variable width; expected a builder "
            "f(shape, n_classes, width_pct=100.0), such as that of lenet_300_100"
        )
    return builder(shape, n_classes, width_pct=width_pct)


def build_to_plan(name: str, shape: tuple[int, int, int], n_classes: int, width_pct: float | None = None) -> nn.Module:
    """Like `build`, for commands that plan: whatever a user's function does wrong is a `UserError`."""
    from torch import nn

    try:
        with printing_aside():
            made = build(name, shape, n_classes, width_pct)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # any exception here is a mistake in the user's function
        raise UserError(f"model {name}: it raises {type(error).__name__}: {words_of(error)}") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"model {name}: it returns {type(made).__name__}; expected a network (nn.Module)")
    return made
