"""What workers need before their first step: what a fork server prepares for all, and what each prepares itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lth_trainable.data.datasets import DATASETS, LOADED
from lth_trainable.models.networks import module_of
from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.running.forking import Needs
from sweeps.running.packing import VISIBLE, Packing
from sweeps.running.warm_up import MODULES, WarmUp


def needs_of(specs: Sequence[TrialSpec], data_root: Path | None, warm_up: WarmUp | None = None) -> Needs:
    """What trials need of libraries and data sets; of these as many as a process keeps. Not the user's own code."""
    modules = dict.fromkeys(module_of(spec.model) for spec in specs)
    data = dict.fromkeys((spec.dataset, spec.split_seed, spec.image_size) for spec in specs)
    known = [of_one for of_one in data if of_one[0] in DATASETS][:LOADED]
    root = None if data_root is None else str(data_root)
    return Needs(
        modules=tuple(name for name in modules if name is not None) + (MODULES if warm_up is not None else ()),
        data=tuple((name, root, *settings) for name, *settings in known),
        warm_up=warm_up,
    )


def warm_up_of(specs: Sequence[TrialSpec], execution: Mapping[str, Any], packing: Packing | None) -> WarmUp | None:
    """What workers train until their first trial: a network of the first one, on their GPU. None: nothing.

    That is so without a GPU; with several, since only its first trial says which is a worker's; where trials do not
    share it, or the first one measures its memory; for stacks of networks, and those that are to be compiled, which
    takes minutes; and for trials with the user's own code, which is to run within trials only.
    """
    if packing is None or packing.gpus > 1 or packing.on_each == 1 or not specs:
        return None
    spec = specs[0]
    if execution.get("replicas", 1) > 1 or execution.get("compile") or spec.code_digests():
        return None
    root = execution.get("data_root")
    where = {"trials_on_gpu": packing.on_each, "data_root": None if root is None else str(root)}
    return WarmUp(
        spec=spec.canonical(), execution={**execution, **where}, environment={VISIBLE: packing.visible[0]}
    )  # fmt: skip
