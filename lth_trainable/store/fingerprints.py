"""What of a trial's fingerprint depends on the trial itself, not only on where it runs. Does not import torch.

The fingerprint of a place (`training.execution.fingerprint`) is common to all trials there. A GPU steps with a momentum
that moves in an arithmetic of its own (`training.cycled`), so such a trial says so, and no other one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lth_trainable.spec.trial_spec import TrialSpec

MOMENTUM = "momentum"
ON_DEVICE = "on_device"


def of_trial(fingerprint: Mapping[str, Any], spec: TrialSpec) -> dict[str, Any]:
    """The fingerprint of a trial of this spec, where another trial, or the place alone, has this fingerprint."""
    found = of_place(fingerprint)
    on_gpu = str(found.get("device", "")).startswith("cuda")
    return {**found, **({MOMENTUM: ON_DEVICE} if on_gpu and spec.cycles_momentum else {})}


def of_place(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint without what depends on the trial."""
    return {name: value for name, value in fingerprint.items() if name != MOMENTUM}
