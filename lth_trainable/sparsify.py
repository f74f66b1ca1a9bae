"""The address of the callback up to 0.4: learners exported then are unpickled by it."""

from lth_trainable.pruning.callback import SparsifyCallback

__all__ = ["SparsifyCallback"]
