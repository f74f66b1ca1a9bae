"""Networks by name, and what they cost."""

from lth_trainable.registry import lazy

_HOME = {
    "networks": (
        "Builder", "lenet_300_100", "resnet18", "resnet20", "conv_2", "conv_4", "conv_6", "narrowed", "MODELS",
        "find_builder", "build",
    ),
}  # fmt: skip
__all__, __getattr__ = lazy(__name__, _HOME)
