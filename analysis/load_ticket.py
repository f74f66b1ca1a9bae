"""Opens the tickets that lie beside it; needs torch, numpy and safetensors, and torchvision for a resnet18.

    model = load_model("NAME.safetensors")               # as trained; or "initial", "rewind"
    network().load_state_dict(masked_weights("NAME.safetensors", "initial"))    # a network of your own code

`python -m analysis pack` puts a copy of this file into each archive: it imports nothing of its project.
"""

import itertools
import json
import math
from typing import Any

import numpy
import torch
from safetensors import safe_open
from torch import Tensor, nn


def load_model(path: Any, part: str = "final") -> nn.Module:
    """The network in evaluation mode, with its "initial", "rewind" or "final" weights under the final mask."""
    state, name = masked_weights(path, part), provenance(path)["spec"]["model"]
    if name not in BUILDERS:
        raise ValueError(f"{path}: the network {name} is not known here; build it, then load masked_weights(path)")
    model = BUILDERS[name](state)
    model.load_state_dict(state)
    return model.eval()


def masked_weights(path: Any, part: str = "final") -> dict[str, Tensor]:
    """The same as a state_dict."""
    with safe_open(str(path), framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(f"{part}/")]  # noqa: SIM118
        state = {name.removeprefix(f"{part}/"): file.get_tensor(name) for name in names}
    if not state:
        raise ValueError(f"{path}: found no {part} weights; expected initial, final or, in a ticket, rewind")
    for name, mask in masks(path).items():
        state[name] *= mask
    return state


def masks(path: Any) -> dict[str, Tensor]:
    """Boolean tensors by parameter name, True where the weight is kept."""
    found = {}
    with safe_open(str(path), framework="pt") as file:
        for name, shape in _about(file)["shapes"].items():
            bits = numpy.unpackbits(file.get_tensor(f"mask/{name}").numpy(), count=math.prod(shape))
            found[name] = torch.from_numpy(bits.reshape(shape).astype(bool))
    return found


def provenance(path: Any) -> dict[str, Any]:
    """Where a ticket comes from: trial, spec, data, result, versions, fingerprint, SHA-256."""
    with safe_open(str(path), framework="pt") as file:
        return _about(file)["provenance"]


def _about(file: Any) -> dict[str, Any]:
    return json.loads(file.metadata()["ticket"])


def _lenet_300_100(state: dict[str, Tensor]) -> nn.Module:
    weights = [tensor for name, tensor in sorted(state.items()) if name.endswith(".weight")]
    sizes = [weights[0].shape[1], *(len(weight) for weight in weights)]
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _resnet18(state: dict[str, Tensor]) -> nn.Module:
    from torchvision.models import resnet18

    return resnet18(num_classes=len(state["fc.bias"]))


BUILDERS = {"lenet_300_100": _lenet_300_100, "resnet18": _resnet18}
