"""Which trials can be trained as one network: those that do the same arithmetic on other numbers. Needs no torch."""

from __future__ import annotations

from collections.abc import Hashable

from lth_trainable.spec.trial_spec import TrialSpec

OF_STEP = (
    "dataset", "split_seed", "image_size", "model", "width_pct", "batch_size", "augment", "optimizer", "momentum",
    "beta2", "eps", "weight_decay", "precision",
)  # fmt: skip


def stack_shape(spec: TrialSpec, *, in_memory: bool = True) -> Hashable | None:
    """What the trials of a stack have in common: every field of the step itself. None: this trial trains alone.

    Seed, mask, control, schedule, rewind point, learning rate, level and number of epochs may differ. in_memory:
    whether the images of its data set are in memory; a user's own loaders make them one by one. Alone are also fp16,
    whose loss scale follows the gradients of one network, and the policy `one_cycle`, under which momentum moves.
    """
    if not in_memory or spec.precision == "fp16" or spec.lr_policy == "one_cycle":
        return None
    return tuple(getattr(spec, name) for name in OF_STEP)
