"""Networks of torchvision and timm by name, always untrained: `torchvision:resnet50`, `timm:convnext_tiny`.

They get the wanted number of classes and of input channels, and the image size where they have a fixed one. A network
that cannot take the images is refused with its own reason. Its identity is the version of its library. Needs torch only
once such a network is named.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lth_trainable.errors import UserError, bad_value, words_of
from lth_trainable.registry import LIBRARIES, library_version

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]
_AUXILIARY = ("googlenet", "inception_v3")  # torchvision's networks with outputs that only help training; built without


@dataclass(frozen=True)
class LibraryNetwork:
    """The builder f(shape, n_classes) of a library's network, such as `torchvision:resnet18`."""

    name: str

    def __call__(self, shape: Shape, n_classes: int) -> nn.Module:
        """Build it and try it on two images, once in each process. Raises `UserError` if it cannot take them."""
        try:
            model = _build(self.name, shape, n_classes)
        except UserError:
            raise
        except Exception as error:  # each network refuses sizes in its own way
            raise _refusal(self.name, shape, f"{type(error).__name__}: {words_of(error)}") from error
        _try_once(self, model, shape, n_classes)
        return model


@functools.cache
def library_network(name: str) -> LibraryNetwork:
    """The builder of this name. Raises `UserError` if the library or the network is not there."""
    library, _, network = name.partition(":")
    if importlib.util.find_spec(library) is None:
        raise UserError(f"model: {name!r} needs {library}, which is not installed; pip install {library}")
    names, others = NETWORKS[library]()
    if network in names:
        return LibraryNetwork(name)
    if network in others or network.partition(".")[0] in names:
        why = (
            "a network for other tasks than classification" if network in others
            else f"a name with the tag of trained weights; here networks start untrained: {network.partition('.')[0]}"
        )  # fmt: skip
        raise UserError(f"model: found {name!r}, {why}")
    near = difflib.get_close_matches(network, names, n=1, cutoff=0.5)
    raise bad_value(
        "model", name, f"one of the {len(names)} networks of {library} {library_version(library)}",
        f"did you mean {library}:{near[0]}?" if near else f"such as {library}:resnet18",
    )  # fmt: skip


def library_name(name: str) -> str | None:
    """The network of this bare name with its library, such as `torchvision:resnet50`; None if no library has it."""
    for library, names in NETWORKS.items():
        if importlib.util.find_spec(library) is not None and name.lower() in names()[0]:
            return f"{library}:{name.lower()}"
    return None


def _of_torchvision() -> tuple[frozenset[str], frozenset[str]]:
    from lth_trainable.models.torchvision_networks import models

    names = frozenset(models.list_models(module=models))
    return names, frozenset(models.list_models()) - names


def _of_timm() -> tuple[frozenset[str], frozenset[str]]:
    import timm

    return frozenset(timm.list_models()), frozenset()


# Names of the networks for classification, and of others that are refused
NETWORKS: dict[str, Callable[[], tuple[frozenset[str], frozenset[str]]]] = {
    "torchvision": _of_torchvision, "timm": _of_timm,
}  # fmt: skip
assert tuple(NETWORKS) == LIBRARIES


def _build(name: str, shape: Shape, n_classes: int) -> nn.Module:
    library, _, network = name.partition(":")
    options = _options(name, shape, n_classes)
    if library == "timm":
        import timm

        return timm.create_model(network, **options)
    from lth_trainable.models.torchvision_networks import models

    return _with_channels(name, models.get_model(network, **options), shape[0])


def _options(name: str, shape: Shape, n_classes: int) -> dict[str, Any]:
    """The options with which the library makes the network. Raises `UserError` for images that it does not take."""
    library, _, network = name.partition(":")
    channels, height, width = shape
    if library == "timm":
        import timm

        fixed = getattr(timm.models.get_pretrained_cfg(network), "fixed_input_size", False)
        size = {"img_size": (height, width)} if fixed else {}
        return {"pretrained": False, "num_classes": n_classes, "in_chans": channels, **size}
    options: dict[str, Any] = {"weights": None, "num_classes": n_classes}
    if network in _AUXILIARY:
        options |= {"aux_logits": False, "init_weights": True}
    if network.startswith("vit_"):
        if height != width:
            raise _refusal(name, shape, "it needs square images")
        options["image_size"] = height
    if network.startswith("maxvit"):
        options["input_size"] = (height, width)
    return options


def library_call(name: str, shape: Shape, n_classes: int) -> str | None:
    """Python that makes the untrained network with its library, once that is imported; None if this is not one call.

    Such as `timm.create_model("convnext_tiny", pretrained=False, num_classes=10, in_chans=3)`.
    """
    library, _, network = name.partition(":")
    if library not in LIBRARIES or not network or (library == "torchvision" and shape[0] != 3):
        return None
    made = {"timm": "timm.create_model", "torchvision": "torchvision.models.get_model"}[library]
    options = "".join(f", {key}={value!r}" for key, value in _options(name, shape, n_classes).items())
    return f'{made}("{network}"{options})'


def _with_channels(name: str, model: nn.Module, channels: int) -> nn.Module:
    """The network with a first convolution for so many channels.

    A new one has weights from a normal distribution with the standard deviation of those that it replaces, so that the
    network's own kind of initialisation is kept.
    """
    from torch import nn

    place = next(place for place, module in model.named_modules() if isinstance(module, nn.Conv2d))
    first: Any = model.get_submodule(place)
    if first.in_channels == channels:
        return model
    if first.groups != 1:
        raise UserError(f"{name}: found {channels} channel(s); its first convolution has groups, so it needs 3")
    new = nn.Conv2d(
        channels, first.out_channels, first.kernel_size, first.stride, first.padding, first.dilation,
        bias=first.bias is not None, padding_mode=first.padding_mode,
    )  # fmt: skip
    nn.init.normal_(new.weight, std=float(first.weight.detach().std()))
    if first.bias is not None:
        new.bias = first.bias
    above, _, own = place.rpartition(".")
    setattr(model.get_submodule(above), own, new)
    return model


_tried: set[tuple[str, Shape, int]] = set()


def _try_once(network: LibraryNetwork, model: nn.Module, shape: Shape, n_classes: int) -> None:
    """Pass two images through a new network, without a trace in it or in torch's random stream."""
    import torch

    if (network.name, shape, n_classes) in _tried or next(model.parameters()).is_meta:
        return
    training = model.training
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            found = model.eval()(torch.zeros(2, *shape))
        except Exception as error:  # each network fails in its own way at images that are too small
            raise _refusal(network.name, shape, f"{type(error).__name__}: {words_of(error)}") from error
    model.train(training)
    if not torch.is_tensor(found) or tuple(found.shape) != (2, n_classes):
        what = f"an output of shape {list(found.shape)}" if torch.is_tensor(found) else type(found).__name__
        raise _refusal(network.name, shape, f"for 2 images of {n_classes} classes it returns {what}")
    _tried.add((network.name, shape, n_classes))


def _refusal(name: str, shape: Shape, why: str) -> UserError:
    size = " x ".join(map(str, shape))
    return UserError(
        f"{name}: cannot take images of {size} ({why}); choose another network, or images of another size "
        "(--image-size, with --dataset folder or pets)"
    )
