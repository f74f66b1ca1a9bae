"""What a ticket is compared with, by name: a baseline is `f(ticket, data_root) -> TrialSpec`, one a ticket.

A ticket that has no such baseline gives a `UserError` that says why. Equal trials are counted once, so tickets that
differ only in what does not act in a baseline share it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.values import DENSE_RESTARTS

Baseline = Callable[[TrialSpec, Path | None], TrialSpec]


def dense(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """The dense network for as long as a level (imp, omp) or the whole fit: T epochs. Part of every sweep."""
    return replace(ticket, control="dense")


def dense_to_first_prune(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """The dense network for as long as until the first prune within a fit, as the fasterai tutorial has it.

    For T epochs where that comes after T (imp, omp), or where the fit begins with it.
    """
    first = next((prune.epoch for prune in ticket.prunes), 0)
    return replace(ticket, control="dense", epochs=first or ticket.epochs)


def dense_restarts(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """The ticket's rewinds and budget under an all-ones mask: what restarts alone bring.

    Where they bring everything back it is the dense network at T, bit for bit, and taken as that.
    """
    return replace(ticket, control=DENSE_RESTARTS)


def dense_stretched(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """The dense network for all epochs of the ticket's chain in one course of the learning rate.

    The epoch in which a rewind to an iteration lies counts as a whole one, as it does in the record.
    """
    if ticket.ticket is not None:
        raise UserError("baseline dense_stretched: found an imported ticket; the epochs of its chain are not known")
    steps = None
    if ticket.rewind_step is not None:
        n_train = len(load_dataset(ticket.dataset, data_root, ticket.split_seed).train)
        steps = -(-n_train // ticket.batch_size)
    return replace(_trained("dense_stretched", ticket), control="dense", epochs=ticket.epochs_alone(steps))


def small_dense(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """A narrower dense network of as many prunable weights as the ticket keeps, or the number nearest to it, T epochs.

    Source: Ma et al., arXiv 2107.00166 (small dense).
    """
    from sweeps.experiments.small_dense import nearest_width  # torch: only where it is asked for

    return replace(_trained("small_dense", ticket), control="dense", width_pct=nearest_width(ticket, data_root).pct)


def omp(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """The ticket's sparsity in one prune after T epochs, retrained as the ticket is (Renda et al., arXiv 2003.02389).

    A ticket pruned within one fit is rewound to its k, or to 0 where it has none. The target is the ticket's, which has
    two decimals: imp's exact rung may keep a few weights in a hundred thousand more or fewer.
    """
    return _levels(_trained("omp", ticket), schedule="omp")


def lr_rewinding(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """The ticket's levels with weights kept and the learning rate rewound (Renda et al., arXiv 2003.02389)."""
    return _levels(_trained("lr_rewinding", ticket), retrain="lr_rewinding")


def fine_tuning(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """The ticket's levels with weights kept and the last learning rate (Han et al., arXiv 1506.02626)."""
    return _levels(_trained("fine_tuning", ticket), retrain="fine_tuning")


BASELINES: dict[str, Baseline] = {
    "dense": dense, "dense_to_first_prune": dense_to_first_prune, "dense_restarts": dense_restarts,
    "dense_stretched": dense_stretched, "small_dense": small_dense, "omp": omp, "lr_rewinding": lr_rewinding,
    "fine_tuning": fine_tuning,
}  # fmt: skip


def _trained(name: str, ticket: TrialSpec) -> TrialSpec:
    if ticket.reset_end:
        raise UserError(f"baseline {name}: found a supermask (reset_end); expected a ticket that is trained")
    return ticket


def _levels(ticket: TrialSpec, **fields: Any) -> TrialSpec:
    """The ticket by levels; of one that is pruned within a fit, which has no rate, in one prune."""
    if ticket.family == "levels":
        return replace(ticket, **fields)
    k = {"rewind_epoch": ticket.rewind_epoch or 0, "retrain": "weight_rewinding"}
    return replace(ticket, **{"schedule": "omp", **k, **fields})
