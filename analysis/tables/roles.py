"""The role of a trial in its run: what verdicts take it for."""

from __future__ import annotations

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.values import DENSE_RESTARTS

TICKET, DENSE, CONTROL, BASELINE = "ticket", "dense", "control", "baseline"


def role_of(spec: TrialSpec, is_ticket: bool = True) -> str:
    """What a trial is in its run: "ticket", "dense", "control" or "baseline".

    is_ticket: whether it is one of the tickets; the spec alone does not tell, since omp may be a ticket or a baseline.
    """
    if spec.control == "none":
        return TICKET if is_ticket else BASELINE
    if spec.is_dense:
        return DENSE if spec.width_pct is None else BASELINE
    return BASELINE if spec.control == DENSE_RESTARTS else CONTROL
