"""Baselines by name: what a ticket is compared with. A baseline is a function `f(ticket, data_root) -> TrialSpec`.

Each ticket has one trial of each baseline. A ticket that cannot have it raises a `UserError` that says why. Equal
trials are counted once, so tickets share a baseline if they differ only in fields that have no effect on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.spec.learning_rate import LR_POLICIES
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.values import DENSE_RESTARTS

Baseline = Callable[[TrialSpec, Path | None], TrialSpec]
FINE_TUNED_AT = 0.01  # of the base rate


def dense(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """The dense network, trained for T epochs: one level of imp or omp, or the whole fit. Part of every sweep."""
    return replace(ticket, control="dense")


def dense_to_first_prune(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """The dense network, trained up to the epoch of the first prune within a fit, as in the fasterai tutorial.

    It is trained for T epochs if the first prune comes after T epochs (imp, omp) or at the start of the fit.
    """
    first = next((prune.epoch for prune in ticket.prunes), 0)
    return replace(ticket, control="dense", epochs=first or ticket.epochs)


def dense_restarts(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """A dense network with the ticket's rewinds and training budget: it shows what the restarts alone achieve.

    It trains under an all-ones mask. If each rewind restores everything, the result is bit for bit the dense network at
    T epochs, and counts as that trial.
    """
    return replace(ticket, control=DENSE_RESTARTS)


def dense_stretched(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """The dense network, trained for all epochs of the ticket's chain with one learning-rate curve over all of them.

    For a rewind to an iteration, the epoch of that iteration counts as a full epoch, as it does in the record.
    """
    if ticket.ticket is not None:
        raise UserError("baseline dense_stretched: found an imported ticket; the epochs of its chain are not known")
    steps = None
    if ticket.rewind_step is not None:
        n_train = len(load_dataset(ticket.dataset, data_root, ticket.split_seed, ticket.image_size).train)
        steps = -(-n_train // ticket.batch_size)
    return replace(_trained("dense_stretched", ticket), control="dense", epochs=ticket.epochs_alone(steps))


def small_dense(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """A narrower dense network, trained for T epochs, with as many prunable weights as the ticket keeps.

    No width may give exactly this number; then the nearest number is taken.

    Source: Ma et al., arXiv 2107.00166 (small dense).
    """
    from sweeps.experiments.small_dense import nearest_width  # imports torch, which few commands need

    return replace(_trained("small_dense", ticket), control="dense", width_pct=nearest_width(ticket, data_root).pct)


def omp(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """The ticket's sparsity in one prune after T epochs, retrained like the ticket (Renda et al., arXiv 2003.02389).

    If the ticket is pruned within one fit, omp rewinds to the ticket's k, or to 0 if it has none. The target is the
    ticket's sparsity with two decimals, so omp may keep a few weights in 100,000 more or fewer than imp's exact rung.
    """
    return _levels(_trained("omp", ticket), schedule="omp")


def lr_rewinding(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """The ticket's levels with weights kept: only the learning rate is rewound (Renda et al., arXiv 2003.02389)."""
    return _levels(_trained("lr_rewinding", ticket), retrain="lr_rewinding")


def fine_tuning(ticket: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """The ticket's levels with weights kept, trained on at the last learning rate (Han et al., arXiv 1506.02626).

    Under a policy that ends near zero it is `FINE_TUNED_AT` of the base rate instead: the last plateau of Renda et al.
    (arXiv 2003.02389), whose rate drops tenfold twice. At the last rate of a cosine nothing would be learned.
    """
    ends_near_zero = LR_POLICIES[ticket.lr_policy].ends_near_zero
    fraction = ticket.fine_tuning_lr_fraction or (FINE_TUNED_AT if ends_near_zero else None)
    return _levels(_trained("fine_tuning", ticket), retrain="fine_tuning", fine_tuning_lr_fraction=fraction)


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
    """The ticket pruned by levels with these fields; in one prune if it is pruned within a fit, which has no rate.

    After a prune it sees the data in the order in which the ticket does: that which found the mask, or a new one.
    Within a fit the order runs on, so there it is a new one.
    """
    if ticket.family == "levels":
        return replace(ticket, **{"retrain_order": "new" if ticket.order_is_new else "same", **fields})
    k = {"rewind_epoch": ticket.rewind_epoch or 0, "retrain": "weight_rewinding", "retrain_order": "new"}
    return replace(ticket, **{"schedule": "omp", **k, **fields})
