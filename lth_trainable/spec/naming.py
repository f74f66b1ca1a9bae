"""The name of a trial: readable, and with every field that is not at its default."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from lth_trainable.spec.learning_rate import LR_POLICIES
from lth_trainable.spec.ticket_id import GIVEN_FIELDS

if TYPE_CHECKING:
    from lth_trainable.spec.trial_spec import TrialSpec

# Fields beyond the coordinates (data set, model, schedule, sparsity, rewind epoch, seed), and what stands before them.
_LABELS = {
    "prune_rate_pct": "p", "prune_steps": "steps", "start_pct": "start", "end_pct": "end", "retrain": "retrain_",
    "reset_end": "supermask_", "granularity": "", "context": "", "criterion": "", "layers": "layers_", "epochs": "e",
    "batch_size": "bs", "optimizer": "", "lr": "lr", "momentum": "mom", "beta2": "beta2_", "eps": "eps",
    "weight_decay": "wd", "precision": "", "order_seed": "order", "split_seed": "split", "augment": "",
    "lr_policy": "lr_", "warmup_pct": "warm", "lr_drops": "drops", "lr_drop_factor": "drop", "rewind_optimizer": "opt_",
    "output_prune_rate_pct": "pout", "validate_every": "val", "width_pct": "w", "ticket": "t",
}  # fmt: skip


def trial_name(spec: TrialSpec) -> str:
    """Such as digits-lenet_300_100-imp-s87.04-r1-seed3: coordinates, then what is not at its default, then the seed."""
    parts = [_safe(spec.dataset), _safe(spec.model)]
    if spec.is_dense:
        parts.append("dense")
    else:
        parts += [_safe(spec.schedule or "ticket"), f"s{spec.target_sparsity_pct:g}"]
        if spec.rewind_epoch is not None:
            parts.append(f"r{spec.rewind_epoch}")
        if spec.rewind_step is not None:
            parts.append(f"r{spec.rewind_step}it")
        parts += [spec.control] if spec.control != "none" else []
    usual = _defaults(spec)
    parts += [
        f"{label}{_safe(_value(spec, name))}" for name, label in _LABELS.items() if getattr(spec, name) != usual[name]
    ]
    return "-".join([*parts, f"seed{spec.seed}"])


def _defaults(spec: TrialSpec) -> dict[str, Any]:
    """Field defaults in a trial of this kind: resolved by the schedule, None where they do not act."""
    defaults = {f.name: f.default for f in fields(spec) if f.default is not MISSING}
    if spec.optimizer != "adam":
        defaults |= {"beta2": None, "eps": None}
    policy = LR_POLICIES[spec.lr_policy]
    defaults |= {"warmup_pct": policy.warmup_pct, "lr_drops": policy.drops, "lr_drop_factor": policy.drop_factor}
    if spec.schedule is None:
        sparse = ("granularity", "context", "criterion", "prune_rate_pct", "prune_steps", "retrain")
        return defaults | (dict.fromkeys(sparse) if spec.is_dense else GIVEN_FIELDS)
    rule, within_fit = spec.rule, spec.family == "fit"
    return defaults | {
        "start_pct": rule.start_pct if within_fit else None,
        "end_pct": rule.end_pct if within_fit else None,
        "prune_rate_pct": defaults["prune_rate_pct"] if spec.schedule == "imp" else None,
        "prune_steps": defaults["prune_steps"] if spec.schedule == "iterative" else None,
        "retrain": "weight_rewinding" if not within_fit else "tutorial" if rule.stepwise else "none",
    }


def _value(spec: TrialSpec, name: str) -> Any:
    return spec.given.short if name == "ticket" and spec.given is not None else getattr(spec, name)


def _safe(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return "".join(c if c.isalnum() or c in "._+" else "." for c in text)
