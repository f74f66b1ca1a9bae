"""`model.py` of a folder for the Hub: the source of a network in torch alone, for networks of all kinds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from analysis.export.hub import export_to_hub
from analysis.export.plain_torch import layer_call, plain_source
from lth_trainable.models.libraries import library_call
from lth_trainable.models.networks import build
from lth_trainable.store.store import Store
from lth_trainable.training.run import run_trial
from tests.support.trained import TICKET


def remade(source: str) -> nn.Module:
    names = {"torch": torch, "nn": nn, "inf": float("inf"), "nan": float("nan"), "device": torch.device}
    exec(source, names)
    network: nn.Module = names["Network"]()  # type: ignore[operator]
    return network


def check_plain(name: str, side: int, channels: int = 3) -> None:
    torch.manual_seed(0)
    network = build(name, (channels, side, side), 10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics unlike those of a new network
            nn.init.uniform_(module.running_mean)
    source = plain_source(network, (channels, side, side))
    assert source is not None and network.training
    copy = remade(source)
    copy.load_state_dict(network.state_dict())
    images = torch.randn(5, channels, side, side)
    assert torch.equal(copy.eval()(images), network.eval()(images))
    assert {n for n, p in copy.named_parameters()} == {n for n, p in network.named_parameters()}
    assert "torchvision" not in source and "timm" not in source


@pytest.mark.parametrize(
    ("name", "side"),
    [("lenet_300_100", 8), ("resnet18", 32), ("resnet20", 32), ("conv_4", 16),
     ("torchvision:mobilenet_v3_small", 64)],
)  # fmt: skip
def test_the_source_is_the_network(name: str, side: int) -> None:
    check_plain(name, side)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "torchvision:densenet121", "torchvision:efficientnet_b0", "torchvision:convnext_tiny", "torchvision:vit_b_16",
        "torchvision:shufflenet_v2_x1_0", "torchvision:regnet_y_400mf", "timm:resnet18", "timm:convnext_atto",
        "timm:vit_tiny_patch16_224", "timm:efficientnet_b0",
    ],
)  # fmt: skip
def test_the_source_is_the_network_of_a_library(name: str) -> None:
    check_plain(name, 224 if "vit" in name else 64)


@pytest.mark.slow
def test_a_network_that_torch_alone_cannot_say_is_made_by_its_library() -> None:
    torch.manual_seed(0)
    network = build("torchvision:swin_t", (3, 64, 64), 10).eval()
    assert plain_source(network, (3, 64, 64)) is None
    call = library_call("torchvision:swin_t", (3, 64, 64), 10)
    assert call == 'torchvision.models.get_model("swin_t", weights=None, num_classes=10)'
    copy = eval(call, {"torchvision": __import__("torchvision")}).eval()
    copy.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(copy(images), network(images))
    assert library_call("torchvision:swin_t", (1, 64, 64), 10) is None and library_call("lenet", (1, 8, 8), 10) is None


class Branching(nn.Module):
    """A network whose way depends on its images, which no recording has."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head(x if x.sum() > 0 else -x)


class FixedBatch(Branching):
    """A network whose recording has the number of images of one batch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1)) + torch.zeros(len(x), 1)


@pytest.mark.parametrize("network", [Branching(), FixedBatch()], ids=["branching", "fixed batch"])
def test_a_network_that_cannot_be_recorded_has_no_source(network: nn.Module) -> None:
    assert plain_source(network, (1, 2, 2)) is None


def test_layers_are_written_with_what_differs_from_their_defaults() -> None:
    assert layer_call(nn.Conv2d(3, 8, 3, stride=2, bias=False)) == ("Conv2d(3, 8, (3, 3), stride=(2, 2), bias=False)")
    assert (
        layer_call(nn.BatchNorm2d(8)) == "BatchNorm2d(8)" and layer_call(nn.ReLU(inplace=True)) == "ReLU(inplace=True)"
    )
    assert layer_call(nn.LayerNorm(8, eps=1e-6)) == "LayerNorm((8,), eps=1e-06)"


def branching(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    network = Branching()
    network.head = nn.Linear(64, n_classes)
    return network


def test_a_plug_in_that_torch_alone_cannot_say_is_exported_without_its_class(
    tmp_path: Path,
) -> None:
    spec = replace(TICKET, model=f"{__name__}:branching", epochs=1, rewind_epoch=0)
    run_trial(spec, Store(tmp_path / "runs"), "run")
    one = export_to_hub([str(tmp_path / "runs" / "run" / "trials" / spec.name)], tmp_path / "hub")
    assert "model.py" not in one.files and "cannot be written down" in " ".join(one.notes)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "The class of the network is not in this repository" in card and "It uses code of its author" in card
    assert "None: this trial belongs to no run" in card
