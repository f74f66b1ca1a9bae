"""Load exported tickets with torch alone: from the folder of this file, or from a folder you name.

    model = load_model()                                        # as trained; or load_model("NAME", "rewind")
    network().load_state_dict(masked_weights("NAME", "initial"))    # with a network of your own
    masks("NAME"), dense_weights("NAME", "rewind"), provenance("NAME")

`python -m analysis export` and `pack` put a copy of this file beside the tickets, so it imports nothing else from its
project.
"""

import json
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent


def load_model(folder: Any = HERE, part: str = "final") -> nn.Module:
    """The network in evaluation mode, with its "initial", "rewind" or "final" weights under the final mask."""
    state, name = masked_weights(folder, part), provenance(folder)["spec"]["model"]
    if name not in BUILDERS:
        raise ValueError(f"{folder}: the network {name} is not known here; build it, then load masked_weights(folder)")
    model = BUILDERS[name](state)
    model.load_state_dict(state)
    return model.eval()


def masked_weights(folder: Any = HERE, part: str = "final") -> dict[str, Tensor]:
    """The weights with the final mask applied, as a state_dict of dense tensors with zeros."""
    return _tensors(folder, part)


def dense_weights(folder: Any = HERE, part: str = "initial") -> dict[str, Tensor]:
    """The "initial" or "rewind" weights without the mask, as a state_dict."""
    return _tensors(folder, f"dense/{part}" if Path(folder, "dense").is_dir() else part)


def masks(folder: Any = HERE) -> dict[str, Tensor]:
    """Parameter name -> Boolean tensor, True for weights that are kept; empty for a dense network."""
    return _tensors(folder, "masks")


def provenance(folder: Any = HERE) -> dict[str, Any]:
    """Where the ticket comes from: trial, spec, data, result, versions, fingerprint, SHA-256."""
    return json.loads(Path(folder, "ticket.json").read_text(encoding="utf-8"))["provenance"]


def _tensors(folder: Any, name: str) -> dict[str, Tensor]:
    path = Path(folder, f"{name}.pt")
    if not path.is_file():
        there = sorted(other.relative_to(folder).as_posix() for other in Path(folder).rglob("*.pt"))
        raise ValueError(f"{folder}: found no {name}.pt; it has {', '.join(there) or 'no weights: name a ticket'}")
    return torch.load(path, map_location="cpu", weights_only=True)


# -- networks, with the shapes of the weights --------------------------------------------------------------------------


def _lenet_300_100(state: dict[str, Tensor]) -> nn.Module:
    weights = [tensor for name, tensor in sorted(state.items()) if name.endswith(".weight")]
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in pairwise([weights[0].shape[1], *(len(weight) for weight in weights)]):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class _Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int, down: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        shortcut = nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False)
        self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(n_out)) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.downsample(x))


def _residual(state: dict[str, Tensor]) -> nn.Module:
    """He et al., arXiv 1512.03385, with torchvision's names: for ImageNet (first kernel 7x7) or for CIFAR (3x3)."""
    n_classes, n_features = state["fc.weight"].shape
    n_in, n_channels, side, _ = state["conv1.weight"].shape
    stride = 2 if side == 7 else 1
    parts: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(n_channels, n_in, side, stride=stride, padding=side // 2, bias=False),
        "bn1": nn.BatchNorm2d(n_in), "relu": nn.ReLU(),
    }  # fmt: skip
    if side == 7:
        parts["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    places = sorted({(int(name[5]), int(name.split(".")[1])) for name in state if name.startswith("layer")})
    for layer in sorted({layer for layer, _ in places}):
        n_out, first = len(state[f"layer{layer}.0.bn1.weight"]), layer == 1
        blocks = [_Block(n_in, n_out, 1 if first else 2, not first)]
        blocks += [_Block(n_out, n_out, 1, False) for place in places if place[0] == layer and place[1] > 0]
        parts[f"layer{layer}"], n_in = nn.Sequential(*blocks), n_out
    parts |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(n_features, n_classes)}
    return nn.Sequential(OrderedDict(parts))


def _conv(state: dict[str, Tensor]) -> nn.Module:
    """Frankle & Carbin, arXiv 1803.03635, fig. 2: a pool after every second convolution, then linear layers."""
    weights = {name.removesuffix(".weight"): tensor for name, tensor in state.items() if name.endswith(".weight")}
    parts: dict[str, nn.Module] = {}
    for number in range(1, 1 + sum(name.startswith("conv") for name in weights)):
        n_out, n_in = weights[f"conv{number}"].shape[:2]
        parts |= {f"conv{number}": nn.Conv2d(n_in, n_out, 3, padding=1), f"relu{number}": nn.ReLU()}
        if number % 2 == 0:
            parts[f"pool{number // 2}"] = nn.MaxPool2d(2)
    parts["flatten"] = nn.Flatten()
    for number in range(1, 1 + sum(name.startswith("fc") for name in weights)):
        n_out, n_in = weights[f"fc{number}"].shape
        parts |= {f"fc{number}": nn.Linear(n_in, n_out), f"fc_relu{number}": nn.ReLU()}
    parts.popitem()
    return nn.Sequential(OrderedDict(parts))


BUILDERS = {
    "lenet_300_100": _lenet_300_100, "resnet18": _residual, "resnet20": _residual, "conv_2": _conv, "conv_4": _conv,
    "conv_6": _conv,
}  # fmt: skip
