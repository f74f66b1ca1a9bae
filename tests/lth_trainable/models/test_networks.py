"""The networks by name against the figures of their papers."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import nn

from lth_trainable.errors import UserError
from lth_trainable.models.flops import weight_uses
from lth_trainable.models.networks import MODELS, SMALLEST, build, check_images, module_of
from lth_trainable.pruning.layers import LAYER_TYPES, prunable_layers

CIFAR = (3, 32, 32)


def sizes(model: nn.Module, layers: str = "all") -> dict[str, int]:
    return {layer.parameter_name: layer.weight.numel() for layer in prunable_layers(model, LAYER_TYPES[layers])}


def multiply_adds(model: nn.Module) -> int:
    uses = weight_uses(model, torch.zeros(1, *CIFAR))
    return sum(n * uses[name] for name, n in sizes(model).items())


def test_resnet20_has_the_weights_and_the_cost_of_its_paper() -> None:
    """0.27 M weights (He et al., arXiv 1512.03385, table 6), 40.55e6 multiply-adds without the two 1x1 shortcuts."""
    model = build("resnet20", CIFAR, 10)
    found = sizes(model)
    shortcuts = {name: n for name, n in found.items() if "downsample" in name}
    assert list(shortcuts.values()) == [16 * 32, 32 * 64]
    assert sum(found.values()) == 270_896 and sum(p.numel() for p in model.parameters()) == 272_474
    assert multiply_adds(model) - (16 * 32 * 16**2 + 32 * 64 * 8**2) == 40_551_040
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 19 + 2 and all(module.bias is None for module in convolutions)
    assert {"conv1.weight", "fc.weight"} < found.keys()


@pytest.mark.parametrize(
    ("name", "convolutions", "weights", "parameters"),
    [("conv_2", 38_592, 4_300_992, 4_301_642), ("conv_4", 259_776, 2_425_024, 2_425_930),
     ("conv_6", 1_144_512, 2_261_184, 2_262_602)],
)  # fmt: skip
def test_conv_n_has_the_weights_of_its_paper(name: str, convolutions: int, weights: int, parameters: int) -> None:
    """4.3 M and 2.4 M weights, 38 K, 260 K and 1.1 M of them in convolutions (arXiv 1803.03635, fig. 2)."""
    model = build(name, CIFAR, 10)
    assert sum(sizes(model, "conv").values()) == convolutions and sum(sizes(model).values()) == weights
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_initial_weights_have_the_variance_of_their_papers() -> None:
    """Kaiming: 2 / fan-in; Glorot: 2 / (fan-in + fan-out). Of the largest tensors, so within 3 %."""
    torch.manual_seed(0)
    weight = build("resnet20", CIFAR, 10).get_parameter("layer3.2.conv2.weight")
    assert float(weight.var()) == pytest.approx(2 / (9 * 64), rel=0.03)
    weight = build("conv_4", CIFAR, 10).get_parameter("conv4.weight")
    assert float(weight.var()) == pytest.approx(2 / (9 * 256), rel=0.03)
    for name in ("resnet20", "conv_4"):
        tensors = dict(build(name, CIFAR, 10).named_parameters())
        assert all(not tensor.any() for key, tensor in tensors.items() if key.endswith("bias"))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (2, 17, 40), (3, 96, 96)], ids=str)
@pytest.mark.parametrize("name", ["resnet20", *SMALLEST])
def test_images_of_other_sizes_and_channels_are_taken(name: str, shape: tuple[int, int, int]) -> None:
    with torch.no_grad():
        assert build(name, shape, 5).eval()(torch.zeros(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize("name", SMALLEST)
def test_images_that_a_pool_would_use_up_are_refused_in_one_line(name: str) -> None:
    least = SMALLEST[name]
    for shape in ((1, least - 1, 32), (1, 32, least - 1)):
        with pytest.raises(UserError, match=rf"^{name}: found images of .*; expected at least {least} a side"):
            check_images(name, shape)
        with pytest.raises(UserError, match="choose another --model"):
            build(name, shape, 10)
    assert build(name, (1, least, least), 10).eval()(torch.zeros(1, 1, least, least)).shape == (1, 10)


@pytest.mark.parametrize("name", MODELS)
def test_a_narrower_network_has_the_same_layers(name: str) -> None:
    whole, narrow = (build(name, CIFAR, 10, width) for width in (None, 50.0))
    assert list(whole.state_dict()) == list(narrow.state_dict())
    counts = [sum(sizes(model).values()) for model in (whole, narrow, build(name, CIFAR, 10, 1.0))]
    assert all(more > fewer for more, fewer in pairwise(counts))


def test_a_builder_imports_the_library_that_is_named_for_it_and_no_other() -> None:
    """A fork server imports it before."""
    names = sorted((*MODELS, "torchvision:resnet18"), key=lambda name: module_of(name) is not None)
    code = (
        "import sys\nfrom lth_trainable.models.networks import build, module_of\n"
        f"for name in {names!r}:\n"
        "    build(name, (3, 32, 32), 2)\n"
        "    ours = 'lth_trainable.models.torchvision_networks', 'timm'\n"
        "    loaded = [module for module in ours if module in sys.modules]\n"
        "    assert loaded == [module for module in (module_of(name),) if module], (name, loaded)\n"
        "    assert ('torchvision' in sys.modules) == bool(loaded) and 'torch._dynamo' not in sys.modules, name\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    assert module_of("timm:resnet18") == "timm" and module_of("tests.plugins:tiny_cnn") is None
