"""What holds the mask while fastai trains, and stays with the learner afterwards; and its column in fastai's table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastai.callback.core import Callback
from fastai.metrics import Metric

from lth_trainable.pruning.pruner import MaskedLayers


def always() -> bool:
    """The mask holds as long as the `KeepMask` is with a learner."""
    return True


class KeepMask(Callback):
    """Hold the masked weights at exactly zero: before training and validation, after every step, after the fit.

    Gradients of masked weights are cleared where another callback reads gradients, so that clipping does not count
    them. Comes after callbacks that load weights at the end of a fit (SaveModelCallback).

    on_end: called once a fit has ended, after all else. is_active: whether the mask is to be held now; a callback that
    an exception has taken off its learner in mid-fit says no.
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
        """From a pickle; one of version 0.4 has an `owner` in place of the two functions, None once a fit had ended."""
        current = {"on_end": None, "is_active": always, **state}
        current.pop("owner", None)
        self.__dict__.update(current)

    @property
    def is_independent(self) -> bool:
        """Whether it holds the mask for its own sake: no callback's fit is under way."""
        return self.on_end is None

    def become_independent(self, masked: MaskedLayers) -> None:
        """Stay with the learner after the fit that it served, and hold this mask."""
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
    """The measured sparsity, per cent, as a column of fastai's table. read: gives it; None while there is none."""

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
