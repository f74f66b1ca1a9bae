"""Networks of torchvision and timm: untrained, with the wanted classes and channels, or refused with the reason."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from torch import nn

from lth_trainable.errors import UserError
from lth_trainable.models import libraries
from lth_trainable.models.networks import build, find_builder
from lth_trainable.spec.trial_spec import TrialSpec

TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm, an optional extra, is not installed")
GREY, SMALL, LARGE = (1, 32, 32), (3, 32, 32), (3, 96, 96)


@pytest.mark.parametrize(("name", "shape"), [
    ("torchvision:resnet18", GREY), ("torchvision:squeezenet1_1", (4, 48, 48)), ("torchvision:vit_b_16", (1, 32, 32)),
    ("torchvision:googlenet", SMALL), ("torchvision:inception_v3", LARGE),
    pytest.param("timm:resnet10t", GREY, marks=TIMM),
    pytest.param("timm:vit_tiny_patch16_224", (2, 32, 32), marks=TIMM),
])  # fmt: skip
def test_a_network_has_the_classes_and_channels_in_evaluation_and_training(
    name: str, shape: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    model = build(name, shape, 5)
    assert model.training
    for mode in (model.eval(), model.train()):
        assert mode(torch.randn(3, *shape)).shape == (3, 5)


def test_the_seed_alone_decides_the_weights_and_the_trial_run_is_without_a_trace() -> None:
    def weights() -> torch.Tensor:
        torch.manual_seed(3)
        model = build("torchvision:resnet18", (2, 32, 32), 5)
        return torch.cat([t.flatten().float() for t in model.state_dict().values()] + [torch.rand(1)])

    libraries._tried.clear()
    assert torch.equal(weights(), weights())  # the second one is not tried


def test_a_replaced_convolution_keeps_the_spread_of_the_networks_own() -> None:
    torch.manual_seed(0)
    first = build("torchvision:resnet18", GREY, 5).conv1
    assert isinstance(first, nn.Conv2d) and first.in_channels == 1 and first.bias is None
    due = math.sqrt(2 / (64 * 49))  # He's, by the fan out
    assert float(first.weight.detach().std()) == pytest.approx(due, rel=0.1)


@pytest.mark.parametrize(("name", "shape", "says"), [
    ("torchvision:alexnet", SMALL, r"cannot take images of 3 x 32 x 32 \(RuntimeError: .*--image-size"),
    ("torchvision:inception_v3", SMALL, "cannot take images"), ("torchvision:vit_b_16", (3, 40, 40), "cannot take"),
    ("torchvision:vit_b_16", (3, 32, 64), "square"),
])  # fmt: skip
def test_a_network_for_other_images_is_refused_with_its_reason(
    name: str, shape: tuple[int, int, int], says: str
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        build(name, shape, 5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "says"), [
    ("torchvision:resnet19", "did you mean torchvision:resnet1"), ("torchvision:fcn_resnet50", "other tasks"),
    ("torchvision:zzz", "such as torchvision:resnet18"),
    pytest.param("timm:resnet18.a1_in1k", "start untrained: resnet18", marks=TIMM),
    pytest.param("timm:hf-hub:some/one", "did you mean|such as", marks=TIMM),
])  # fmt: skip
def test_an_unknown_network_is_refused(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        TrialSpec(model=name)


def test_without_timm_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries.library_network.cache_clear()
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install timm"):
        find_builder("timm:resnet18")


def test_the_librarys_version_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TrialSpec(model="torchvision:resnet18")
    before = spec.key("d")
    assert spec.name.startswith("digits-torchvision.resnet18-") and TrialSpec(model="resnet18").key("d") != before
    monkeypatch.setattr("lth_trainable.registry.version", lambda name: "0.99.0+cpu")
    after = spec.key("d")
    monkeypatch.setattr("lth_trainable.registry.version", lambda name: "0.99.0")
    assert before != after == spec.key("d")


def test_a_width_is_refused() -> None:
    with pytest.raises(UserError, match="no variable width"):
        build("torchvision:resnet18", SMALL, 5, 50.0)
