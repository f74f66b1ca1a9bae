"""Data sets, and the loaders that feed them to a learner."""

from lth_trainable.registry import lazy

_HOME = {
    "datasets": (
        "Split", "Part", "Dataset", "CHUNK", "Loader", "digits", "mnist", "cifar10", "pets", "split", "content_digest",
        "DATASETS", "load_dataset",
    ),
}  # fmt: skip
__all__, __getattr__ = lazy(__name__, _HOME)
