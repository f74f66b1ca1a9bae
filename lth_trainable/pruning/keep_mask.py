"""KeepMask keeps masked weights at zero during and after a fit; SparsityMetric is a column of fastai's table.

A SparsifyCallback gives one to its learner. It acts late in the order of callbacks, and stays when the callback goes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from fastai.callback.core import Callback
from fastai.metrics import Metric

from lth_trainable.errors import UserError
from lth_trainable.pruning.fits import is_finding_rate, is_looking
from lth_trainable.pruning.own_weights import Fingerprint, fingerprint, foreign_layers, is_near, replaced_layers
from lth_trainable.pruning.pruner import MaskedLayers
from lth_trainable.pruning.weight_copies import is_held

LAYERS_NAMED = 3  # in a warning


def always() -> bool:
    """The default of `KeepMask.is_active`: the mask holds as long as the callback is with a learner."""
    return True


class KeepMask(Callback):
    """Keep the masked weights at exactly zero, in every fit and after it, as long as they are the weights of the mask.

    Zeros are set at the start of an epoch, after every step, before the validation and at the end of the fit. If
    another callback reads gradients, those of masked weights are set to zero, so that gradient clipping does not count
    them. This callback runs after those that load weights at the end of a fit (SaveModelCallback).

    If the weights have been replaced (another model, loaded or initialised again, the checkpoint of another fit), the
    mask ends with a warning when an epoch starts or a fit ends, and no weight changes. Weights of an earlier epoch of
    the same fit are masked. Looking at the network (see `is_looking`) changes nothing.

    on_end: called at the end of a fit, after everything else, in place of `settle`. is_active: whether to apply the
    mask now. A SparsifyCallback answers no after an exception in mid-fit has removed it from its learner.
    """

    order = 65
    # pickles of version 0.4 lack these
    is_within_step = _is_announced = _gradients_are_read = False
    _acts: bool | None = None
    _seen: frozenset[Fingerprint] = frozenset()
    left: Fingerprint | None = None  # the weights that the last fit has left, if there was no mask yet

    def __init__(
        self,
        pruner: MaskedLayers,
        on_end: Callable[[], None] | None = None,
        is_active: Callable[[], bool] = always,
    ) -> None:
        self.pruner, self.on_end, self.is_active = pruner, on_end, is_active
        self._is_announced = False  # a fit has begun and trained nothing yet; `summary` goes no further
        self._acts = None  # whether to apply the mask in this fit; None: to be found out
        self.is_within_step = False  # the optimiser may have changed masked weights; stays true after an interrupt
        self._seen = frozenset()  # weights at the ends of this fit's epochs

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

    @property
    def holds(self) -> bool:
        """Whether the mask is applied to the steps of the present epoch."""
        return bool(self._acts) and self.is_active()

    @property
    def has_own_weights(self) -> bool:
        """Whether the learner's network has the weights of the mask, or those of an earlier epoch of this fit."""
        if not replaced_layers(self.pruner, self.learn.model):
            return True
        if foreign_layers(self.pruner, self.learn.model):
            return False
        return self.is_within_step or fingerprint(self.pruner) in self._seen

    @property
    def is_as_left(self) -> bool:
        """Whether the network has the weights that its last fit has left, as far as that is known. NaN counts as such.

        Where nothing is masked yet, no zeros tell that weights have been replaced.
        """
        if self.left is None or not all(map(math.isfinite, self.left)):
            return True
        return not foreign_layers(self.pruner, self.learn.model) and is_near(self.left, fingerprint(self.pruner))

    def become_independent(self, masked: MaskedLayers) -> None:
        """After the fit, stay with the learner and keep this mask."""
        self.pruner, self.on_end, self.is_active = masked, None, always

    def start(self) -> None:
        """Before an epoch is trained, find out whether the mask acts, and set its zeros."""
        self._is_announced = False
        if not is_finding_rate(self.learn):
            self.left = None
        self._gradients_are_read = any(hasattr(type(cb), "before_step") for cb in self.learn.cbs)
        if not self.is_active():
            return
        self._acts = self.has_own_weights
        if self._acts:
            self._apply()
        elif is_looking(self.learn):
            return
        elif self.is_pruning:
            raise self.replaced("a fit with a SparsifyCallback", "start a new fit to prune these weights")
        else:
            self.end()

    def settle(self) -> bool:
        """At the end of a fit, set the zeros in what other callbacks have loaded. False: that was of another fit.

        An earlier epoch of the fit is its own, and so is the average of its weights that a callback holds.
        """
        if self.has_own_weights or (not foreign_layers(self.pruner, self.learn.model) and is_held(self.learn)):
            self.pruner.apply()
            return True
        self.end()
        return False

    def end(self) -> None:
        """Leave the learner and say so, because its network has other weights now."""
        warn_ended(self.pruner, replaced_layers(self.pruner, self.learn.model))
        self._acts = False
        self.learn.remove_cb(self)

    def replaced(self, where: str, advice: str) -> UserError:
        """The exception, to be raised, where something needs the weights of the mask and the network has others."""
        model = self.learn.model
        layers = foreign_layers(self.pruner, model) or replaced_layers(self.pruner, model)
        found = f"other weights in {_shown(layers)} than those of its mask ({self.pruner.sparsity_pct:.2f} % sparse)"
        return UserError(f"{where}: found {found}; expected those that were trained under it; {advice}")

    # -- events of fastai --------------------------------------------------------------------------------------------

    def before_fit(self) -> None:
        if not self.learn.lock.locked():
            self._is_announced, self._acts = True, None

    def before_train(self) -> None:
        if self.learn is not None:  # a callback before this one may have taken it off
            self.start()

    def after_backward(self) -> None:
        if self._acts is None:  # a step outside of a fit
            self._acts = self.is_active() and self.has_own_weights
        if not self._acts:
            return
        self._note_step(begun=True)
        if self._gradients_are_read:
            self.pruner.apply_to_gradients()

    def after_step(self) -> None:
        self._apply()

    def before_validate(self) -> None:
        if not self.learn.lock.locked():
            self._apply()

    def after_epoch(self) -> None:
        if self._acts and self.is_pruning and not is_looking(self.learn):
            self._seen |= {fingerprint(self.pruner)}

    def after_fit(self) -> None:
        if self.learn is None or self.learn.lock.locked():
            return
        announced, self._is_announced = self._is_announced, False
        if not announced and self.is_active() and not is_looking(self.learn):
            end = self.on_end or self.settle
            end()
        if not announced and self.pruner.in_force is None and not is_finding_rate(self.learn):
            self.left = fingerprint(self.pruner)
        self._acts, self.is_within_step, self._seen = None, False, frozenset()

    def _apply(self) -> None:
        if self.holds:
            self.pruner.apply()
            self._note_step(begun=False)

    def _note_step(self, *, begun: bool) -> None:
        """Set `is_within_step`. fastai would look for the name in learner and network first, in every step."""
        self.__dict__["is_within_step"] = begun


def without_keepers(learn: Any) -> MaskedLayers | None:
    """Remove masks that earlier fits left with the learner; return the last one, if the network has its weights."""
    keepers = [cb for cb in learn.cbs if isinstance(cb, KeepMask)]
    finished = [keeper for keeper in keepers if keeper.is_independent][-1:]
    inherited = [keeper.pruner for keeper in finished if keeper.has_own_weights]
    for keeper in finished:
        if not inherited:
            warn_ended(keeper.pruner, replaced_layers(keeper.pruner, learn.model))
        elif not keeper.is_as_left:
            warnings.warn(
                "found other weights than the last fit has left: a callback starts anew from them. They were loaded or"
                " initialised again since",
                stacklevel=3,
            )
    for keeper in keepers:
        learn.remove_cb(keeper)
    return inherited[0] if inherited else None


def warn_ended(masked: MaskedLayers, layers: Sequence[str]) -> None:
    """Say that a mask has ended because these layers have other weights, and what to do."""
    warnings.warn(
        f"the mask ({masked.sparsity_pct:.2f} % sparse) has ended: the weights of {len(layers)} of its"
        f" {len(masked.layers)} layers ({_shown(layers)}) are not those that it was made for (loaded, initialised"
        " again, or of another model). No weight was changed. To train the ticket, fit with cbs=KeepTicket(ticket); to"
        " prune these weights, fit with a new SparsifyCallback",
        stacklevel=3,
    )


def _shown(layers: Sequence[str]) -> str:
    return ", ".join(layers[:LAYERS_NAMED]) + (", ..." if len(layers) > LAYERS_NAMED else "")


class SparsityMetric(Metric):
    """The measured sparsity in percent as a column of fastai's table. read: returns it, or None if there is none."""

    heading = "sparsity"

    def __init__(self, read: Callable[[], float | None], heading: str = "sparsity") -> None:
        self.read, self.heading = read, heading

    def reset(self) -> None: ...

    def accumulate(self, learn: Any) -> None: ...

    @property
    def value(self) -> float | None:
        return self.read()

    @property
    def name(self) -> str:
        return self.heading
