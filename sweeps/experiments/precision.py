"""`--precision auto`: the fastest precision that trains well where the trials run, put into their specs beforehand.

bf16 on GPUs that have it, from the A100 on; fp32 on other GPUs and on CPUs. So a key never means two things.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from lth_trainable.errors import UserError
from lth_trainable.nvidia import capabilities
from sweeps.experiments.recipes import Sweep

FIELD = "precision"
AUTO = "auto"
OF_GPUS = ("tf32", "fp16")
CPU = "fp32"


def with_precision(sweep: Sweep, *, on_gpus: bool, here: bool) -> Sweep:
    """The sweep with precisions in place of `auto`. here: on this machine, whose GPU is asked.

    Raises `UserError` for a precision that only GPUs have, if the trials have none.
    """
    asked = {*sweep.axes.get(FIELD, ()), sweep.base.get(FIELD)}
    if not on_gpus and (only := asked.intersection(OF_GPUS)):
        raise UserError(
            f"precision: found {', '.join(sorted(map(str, only)))} and trials without a GPU; expected fp32, bf16 or "
            "auto on a CPU; where there is a GPU, --gpus-per-trial 1 gives one to each trial"
        )
    return resolved(sweep, _best_here() if on_gpus and here else "bf16" if on_gpus else CPU) if AUTO in asked else sweep


def resolved(sweep: Sweep, best: str = CPU) -> Sweep:
    """The sweep with this precision in place of `auto`."""

    def of(value: Any) -> Any:
        return best if value == AUTO else value

    base, axes = dict(sweep.base), dict(sweep.axes)
    if FIELD in base:
        base[FIELD] = of(base[FIELD])
    if FIELD in axes:
        axes[FIELD] = tuple(dict.fromkeys(map(of, axes[FIELD])))
    return replace(sweep, base=base, axes=axes)


def _best_here() -> str:
    found = capabilities() if "torch" not in sys.modules else None
    if found is None:
        import torch

        found = [torch.cuda.get_device_capability()] if torch.cuda.is_available() else []
    if not found:  # which is told where resources are checked
        return CPU
    return "bf16" if found[0] >= (8, 0) else "fp32"
