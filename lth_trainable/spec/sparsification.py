"""Validation of the fields that say how a ticket is found, for each family of schedules. Pure; needs no torch."""

from __future__ import annotations

from lth_trainable.errors import bad_value, check_sparsity
from lth_trainable.pruning.levels import RUNG_TOLERANCE, n_levels, rungs
from lth_trainable.spec.draft import Draft
from lth_trainable.spec.learning_rate import LR_POLICIES
from lth_trainable.spec.rewind_point import RewindPoint
from lth_trainable.spec.values import (
    LEVEL_RETRAINS,
    fraction,
    prune_events,
    rule_of,
    usual_order,
)


def check_levels(draft: Draft) -> None:
    """Validate a ticket of imp or omp, which prune between fits."""
    draft.drop("start_pct", "end_pct", "prune_steps")
    _set_retrain(draft, LEVEL_RETRAINS, "weight_rewinding")
    _set_retraining(draft)
    if draft.schedule == "imp":
        check_sparsity("prune_rate", draft.prune_rate_pct)
        draft.number("prune_rate_pct", lambda v: 0 < v < 100, "percent")
        _check_output_rate(draft)
        _snap_to_rung(draft)
    else:
        draft.drop("prune_rate_pct", "output_prune_rate_pct")
    if draft.retrain == "weight_rewinding":
        _check_rewind(draft, draft.epochs, "the first prune, at the end of the level's epochs")
        if draft.rewind_epoch == draft.epochs:
            raise bad_value(
                "rewind_epoch",
                draft.rewind_epoch,
                f"less than epochs ({draft.epochs})",
                "no epoch would be left to retrain",
            )
        if draft.rewind_optimizer == "restored":
            draft.drop("rewind_optimizer")
    elif draft.reset_end:
        raise bad_value(
            "reset_end",
            True,
            "False",
            f"{draft.retrain} has no rewind weights, which a supermask needs",
        )
    else:
        draft.drop("rewind_epoch", "rewind_step", "rewind_optimizer")


def _set_retraining(draft: Draft) -> None:
    """Set what the retraining of a level leaves open: None for what it would do anyway."""
    if draft.retrain_order == usual_order(draft.retrain):
        draft.drop("retrain_order")
    if draft.retrain != "fine_tuning":
        draft.drop("fine_tuning_lr_fraction")
    elif draft.fine_tuning_lr_fraction is not None:
        draft.notes.append(
            f"fine_tuning trains at {draft.fine_tuning_lr_fraction:g} of the learning rate after each prune"
        )
    elif LR_POLICIES[draft.lr_policy].ends_near_zero:
        draft.notes.append(
            f"fine_tuning under {draft.lr_policy} trains at the last learning rate of the policy, which is next to "
            "nothing; --fine-tuning-lr-fraction 0.01 gives it a rate that it can learn at"
        )


def _check_output_rate(draft: Draft) -> None:
    if draft.output_prune_rate_pct == draft.prune_rate_pct:
        draft.drop("output_prune_rate_pct")
    if draft.output_prune_rate_pct is not None:
        draft.number("output_prune_rate_pct", lambda v: 0 < v < 100, "percent")
        if draft.context == "global":
            raise bad_value(
                "output_prune_rate", draft.output_prune_rate_pct, "the context local or output_row",
                "the context global ranks all layers together, so no layer can have its own rate",
            )  # fmt: skip


def check_fit(draft: Draft) -> None:
    """Validate a ticket of a schedule that prunes within one fit."""
    draft.drop("prune_rate_pct", "output_prune_rate_pct", "rewind_optimizer")
    draft.drop("fine_tuning_lr_fraction", "retrain_order")
    rule = rule_of(draft.schedule)
    if draft.schedule == "iterative":
        draft.integer("prune_steps", 1)
    else:
        draft.drop("prune_steps")
    schedule = draft.schedule_of_fit()
    draft.start_pct = float(schedule.start_pct)
    draft.end_pct = float(schedule.end_pct)
    _set_retrain(draft, ("tutorial", "none") if rule.stepwise else ("none",), "tutorial" if rule.stepwise else "none")
    first = prune_events(schedule, draft.epochs, draft.target_sparsity_pct)[0].epoch
    if draft.retrain == "none" and not draft.reset_end:
        draft.drop("rewind_epoch", "rewind_step")
    elif draft.rewind_step is not None:
        raise bad_value(
            "rewind_epoch", str(RewindPoint(iteration=draft.rewind_step)), f"an epoch with schedule {draft.schedule}",
            "within one fit, weights are pruned and reset between epochs; only imp and omp can rewind to an iteration",
        )  # fmt: skip
    else:
        _check_rewind(draft, first, "the first prune")


def _check_rewind(draft: Draft, first_prune: int, event: str) -> None:
    if draft.rewind_step is not None:
        return  # `segments` checks it: the number of iterations depends on the data
    k = draft.rewind_epoch
    if isinstance(k, bool) or not isinstance(k, int) or k < 0:
        raise bad_value("rewind_epoch", k, "a whole epoch number, 0 or more (0: initialisation)")
    if k > first_prune:
        raise bad_value(
            "rewind_epoch",
            k,
            f"an epoch up to {event} of schedule {draft.schedule} (epoch {first_prune})",
            "weights can only be rewound to a point at which the network is still dense",
        )


def _set_retrain(draft: Draft, valid: tuple[str, ...], default: str) -> None:
    if draft.retrain == "auto":
        draft.retrain = default
    if draft.retrain not in valid:
        raise bad_value("retrain", draft.retrain, f"{' or '.join(valid)} with schedule {draft.schedule}")


def _snap_to_rung(draft: Draft) -> None:
    """Move the target to the next sparsity that this prune rate reaches at a level; a note says so."""
    requested, levels = fraction(draft.target_sparsity_pct), n_levels(draft.prune_rate_pct, draft.target_sparsity_pct)
    rung = rungs(draft.prune_rate_pct, levels)[-1]
    snapped = float(round(rung * 100, 2))
    if abs(rung - requested) > RUNG_TOLERANCE:
        note = (
            f"sparsity {draft.target_sparsity_pct:g} % is between rungs of {draft.prune_rate_pct:g} % per level; "
            f"taken as the next rung, {snapped:g} % (level {levels})"
        )
        draft.notes.append(note)
    draft.target_sparsity_pct = snapped
