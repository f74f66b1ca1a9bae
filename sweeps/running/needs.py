"""What the workers of a launch need before their first step, so that a fork server has it there once for all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lth_trainable.data.datasets import DATASETS, LOADED
from lth_trainable.models.networks import module_of
from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.running.forking import Needs


def needs_of(specs: Sequence[TrialSpec], data_root: Path | None) -> Needs:
    """What trials need of libraries and data sets; of these as many as a process keeps. Not the user's own code."""
    modules = dict.fromkeys(module_of(spec.model) for spec in specs)
    data = dict.fromkeys((spec.dataset, spec.split_seed, spec.image_size) for spec in specs)
    known = [of_one for of_one in data if of_one[0] in DATASETS][:LOADED]
    root = None if data_root is None else str(data_root)
    return Needs(
        modules=tuple(name for name in modules if name is not None),
        data=tuple((name, root, *settings) for name, *settings in known),
    )
