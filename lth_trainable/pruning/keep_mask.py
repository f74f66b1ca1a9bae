"""What holds the mask while fastai trains, and stays with the learner afterwards; and its column in fastai's table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastai.callback.core import Callback
from fastai.metrics import Metric

from lth_trainable.pruning.pruner import MaskedLayers

if TYPE_CHECKING:
    from lth_trainable.pruning.callback import SparsifyCallback


class KeepMask(Callback):
    """Hold the masked weights at exactly zero: before training and validation, after every step, after the fit.

    Gradients of masked weights are cleared where another callback reads gradients, so that clipping does not count
    them. Comes after callbacks that load weights at the end of a fit (SaveModelCallback). owner: the callback whose fit
    it serves, told of the end; once that has left the learner in mid-fit, by an exception, nothing is held any more.
    """

    order = 65

    def __init__(self, pruner: MaskedLayers, owner: SparsifyCallback | None = None) -> None:
        self.pruner, self.owner = pruner, owner
        self._gradients_are_read = False

    def _apply(self) -> None:
        if self.owner is None or self.owner.learn is not None:
            self.pruner.apply()

    def before_train(self) -> None:
        self._gradients_are_read = any(hasattr(type(cb), "before_step") for cb in self.learn.cbs)
        self._apply()

    def after_backward(self) -> None:
        if self._gradients_are_read:
            self.pruner.apply_to_gradients()

    def after_step(self) -> None:
        self._apply()

    def before_validate(self) -> None:
        self._apply()

    def after_fit(self) -> None:
        self._apply()
        if self.owner is not None and self.owner.learn is not None:
            self.owner.finish()


class SparsityMetric(Metric):
    """The measured sparsity, per cent, as a column of fastai's table."""

    def __init__(self, callback: SparsifyCallback) -> None:
        self.callback = callback

    def reset(self) -> None: ...

    def accumulate(self, learn: Any) -> None: ...

    @property
    def value(self) -> float | None:
        return self.callback.pruner.sparsity_pct if self.callback.fitting and self.callback.pruner else None

    @property
    def name(self) -> str:
        return "sparsity"
