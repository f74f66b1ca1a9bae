"""KeepMask keeps masked weights at zero during and after a fit; SparsityMetric is a column of fastai's table.

A SparsifyCallback gives one to its learner. It acts late in the order of callbacks, and stays when the callback goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastai.callback.core import Callback
from fastai.metrics import Metric

from lth_trainable.pruning.pruner import MaskedLayers


def always() -> bool:
    """The default of `KeepMask.is_active`: the mask holds as long as the callback is with a learner."""
    return True


class KeepMask(Callback):
    """Keep the masked weights at exactly zero: before training and validation, after every step and after the fit.

    If another callback reads gradients, those of masked weights are set to zero, so that gradient clipping does not
    count them. This callback runs after those that load weights at the end of a fit (SaveModelCallback).

    on_end: called at the end of a fit, after everything else. is_active: whether to apply the mask now. A
    SparsifyCallback answers no after an exception in mid-fit has removed it from its learner.
    """

    order = 65

    def __init__(
        self,
        pruner: MaskedLayers,
        on_end: Callable[[], None] | None = None,
        is_active: Callable[[], bool] = always,
    ) -> None:
        self.pruner, self.on_end, self.is_active = pruner, on_end, is_active
        self._gradients_are_read = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from a pickle. Pickles of version 0.4 have an `owner` instead of the two functions."""
        current = {"on_end": None, "is_active": always, **state}
        current.pop("owner", None)
        self.__dict__.update(current)

    @property
    def is_independent(self) -> bool:
        """Whether it keeps the mask on its own, because no SparsifyCallback is in the middle of a fit."""
        return self.on_end is None

    @property
    def is_pruning(self) -> bool:
        """Whether a SparsifyCallback prunes within the fit that is running."""
        return self.on_end is not None and self.is_active()

    def become_independent(self, masked: MaskedLayers) -> None:
        """After the fit, stay with the learner and keep this mask."""
        self.pruner, self.on_end, self.is_active = masked, None, always

    def _apply(self) -> None:
        if self.is_active():
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
        if self.on_end is not None and self.is_active():
            self.on_end()


class SparsityMetric(Metric):
    """The measured sparsity in percent as a column of fastai's table. read: returns it, or None if there is none."""

    def __init__(self, read: Callable[[], float | None]) -> None:
        self.read = read

    def reset(self) -> None: ...

    def accumulate(self, learn: Any) -> None: ...

    @property
    def value(self) -> float | None:
        return self.read()

    @property
    def name(self) -> str:
        return "sparsity"
