"""Additions to fastai's Learner: `learn.sparsify(80)` prunes at once, `learn.sparsity` says how sparse it is.

`learn.load` says so where it loads a sparse network whose zeros nothing keeps. They are there as soon as
`SparsifyCallback` or `KeepTicket` is imported from `lth_trainable`.
"""

from __future__ import annotations

import warnings
from typing import Any

from fastai.learner import Learner
from fastcore.basics import patch

from lth_trainable.errors import UserError, bad_value, check_sparsity
from lth_trainable.pruning.callback import SparsifyCallback
from lth_trainable.pruning.criteria import Criterion
from lth_trainable.pruning.keep_mask import KeepMask
from lth_trainable.pruning.keep_ticket import KeepTicket
from lth_trainable.pruning.layer_targets import Sparsity, layers_with_target, plain_sparsity, target_now
from lth_trainable.pruning.layers import PRUNABLE, Layer, LayerType, Selection, prunable_layers

__all__ = ["KeepTicket", "SparsifyCallback", "load", "mask_in_force", "sparsify", "sparsity"]

NOTED_ZEROS = 0.01  # dense networks have next to none


@patch
def sparsify(
    self: Learner,
    sparsity: Sparsity,
    granularity: str = "weight",
    context: str = "local",
    criteria: Criterion | str = "large_final",
    *,
    layer_type: LayerType = None,
    layers: Selection = None,
    seed: int = 0,
) -> SparsifyCallback:
    """Prune the network now, to `sparsity` percent; the zeros stay in later fits.

    Counts are exact: of n weights of a layer floor(n s + 1/2) are removed. Arguments are those of `SparsifyCallback`.
    A mask that is there already can only shrink. Returns the callback, which stays with the learner as
    `learn.sparsify_callback`: its `release()` lets the zeros go, its `ticket()` is what was found. Raises `UserError`
    before any weight has changed.
    """
    sparsity = plain_sparsity(sparsity)
    for value in sparsity.values() if isinstance(sparsity, dict) else [sparsity]:
        check_sparsity("sparsity", value)
    callback = SparsifyCallback(
        sparsity, granularity, context, criteria, None, rewind_epoch=None, layer_type=layer_type, layers=layers,
        verbose=False, seed=seed,
    )  # fmt: skip
    asked = layers_with_target(prunable_layers(self.model, layer_type, layers), sparsity)
    _check_mask(self, sparsity, asked)
    self.remove_cbs([cb for cb in self.cbs if isinstance(cb, SparsifyCallback)])
    self.add_cb(callback)
    callback.begin()
    callback.prune(target_now(sparsity, asked))
    return callback


@patch(as_prop=True)
def sparsity(self: Learner) -> float:
    """Percent of the prunable weights that are exactly zero now, counted in the weights.

    Prunable are the layers of the mask in force; without a mask all convolutions, or all linear layers if there are no
    convolutions. Biases and norms never count.
    """
    masked = mask_in_force(self)
    layers = prunable_layers(self.model) if masked is None else masked.layers
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    return 100 * zeros / sum(layer.weight.numel() for layer in layers)


@patch
def load(self: Learner, file: Any, device: Any = None, **kwargs: Any) -> Learner:
    """fastai's `load`, which then warns if the network is sparse and no mask keeps the zeros in a fit.

    It is silent where a mask is with the learner already, and within lr_find, which loads what was there before.
    """
    self._orig_load(file, device=device, **kwargs)
    if not any(isinstance(cb, KeepMask) for cb in self.cbs) and not hasattr(self, "lr_finder"):
        _warn_of_loose_zeros(self.model)
    return self


def _warn_of_loose_zeros(model: Any) -> None:
    try:
        layers = [
            layer for layer in prunable_layers(model, PRUNABLE) if bool(layer.weight.any())
        ]  # some start as zeros
    except UserError:  # no layer that anything here could prune
        return
    zeros, n = sum(int((layer.weight == 0).sum()) for layer in layers), sum(layer.weight.numel() for layer in layers)
    if zeros > n * NOTED_ZEROS:
        warnings.warn(
            f"the loaded network has {zeros:,} zeros of {n:,} weights in its convolutions and linear layers, and a fit"
            " will change them; to keep them, fit with cbs=KeepTicket()",
            stacklevel=3,
        )


def mask_in_force(learn: Learner) -> Any:
    """The masked layers of the learner's network; None if nothing is masked, or if the weights have been replaced."""
    keepers = [cb for cb in learn.cbs if isinstance(cb, KeepMask) and cb.pruner.in_force is not None]
    return keepers[-1].pruner if keepers and keepers[-1].has_own_weights else None


def how_to_release(learn: Learner) -> str:
    """The call that releases the mask in force."""
    if any(isinstance(cb, SparsifyCallback) and cb.goes_on for cb in learn.cbs):
        return "learn.sparsify_callback.release()"
    return "callback.release() (of the callback that made it; learn.remove_cb(learn.keep_mask) without one)"


def _check_mask(learn: Learner, sparsity: Sparsity, layers: list[Layer]) -> None:
    if any(cb.is_pruning for cb in learn.cbs if isinstance(cb, KeepMask)):
        raise UserError("sparsify: a fit with a SparsifyCallback is running; prune after it")
    masked = mask_in_force(learn)
    if masked is None:
        return
    there, asked = {layer.name for layer in masked.layers}, {layer.name for layer in layers}
    if there != asked:
        raise bad_value(
            "sparsify: layers", ", ".join(sorted(asked)), f"those of the mask in force ({', '.join(sorted(there))})",
            f"prune these layers, or release the mask first: {how_to_release(learn)}",
        )  # fmt: skip
    if not isinstance(sparsity, dict) and sparsity < masked.sparsity_pct:
        raise bad_value(
            "sparsify: sparsity", sparsity, f"more than the {masked.sparsity_pct:.2f} % of the mask in force",
            f"what is removed stays removed, unless {how_to_release(learn)} lets the zeros go",
        )  # fmt: skip
