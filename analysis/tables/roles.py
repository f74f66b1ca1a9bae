"""The role of a trial in its run: what verdicts take it for."""

from __future__ import annotations

from analysis.tables.schema import Row
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.values import DENSE_RESTARTS

TICKET, DENSE, CONTROL, BASELINE = "ticket", "dense", "control", "baseline"
AGAIN = "dense_again"  # the control of the dense network: itself, in another order of the data


def role_of(spec: TrialSpec, is_ticket: bool = True) -> str:
    """What a trial is in its run: "ticket", "dense", "control" or "baseline".

    is_ticket: whether it is one of the tickets; the spec alone does not tell, since omp may be a ticket or a baseline.
    """
    if spec.control == "none":
        return TICKET if is_ticket else BASELINE
    if spec.is_dense:
        return DENSE if spec.width_pct is None else BASELINE
    return BASELINE if spec.control == DENSE_RESTARTS else CONTROL


def is_dense_network(row: Row) -> bool:
    """Whether a row of trials is a dense network that tickets are compared with, which `dense_again` is not."""
    return bool(row["control"] == "dense" and row.get("role") != CONTROL)


def is_dense_again(row: Row) -> bool:
    """Whether a row of trials is the dense network in another order of the data; only a plan says so."""
    return bool(row["control"] == "dense" and row.get("role") == CONTROL)
