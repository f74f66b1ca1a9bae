"""What makes a `TrialSpec` valid, and what it sets to None because it does not act. Pure; no torch.

`normalise` is the spec's `__post_init__`. Checks come in the order in which a person would want to hear of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lth_trainable.data.datasets import DATASETS
from lth_trainable.errors import bad_value, unknown_name
from lth_trainable.models.networks import MODELS
from lth_trainable.pruning.controls import CONTROLS
from lth_trainable.pruning.criteria import CRITERIA
from lth_trainable.pruning.granularity import GRANULARITIES
from lth_trainable.pruning.masks import CONTEXTS
from lth_trainable.registry import lookup
from lth_trainable.spec.learning_rate import LR_POLICIES, parse_drops
from lth_trainable.spec.ticket_id import check_ticket, make_given

if TYPE_CHECKING:
    from lth_trainable.spec.trial_spec import TrialSpec

DENSE_RESTARTS = "dense_restarts"
KINDS = ("none", "dense", DENSE_RESTARTS, *CONTROLS)
LAYERS = ("auto", "conv", "linear", "all")
OPTIMIZERS = ("adam", "sgd")
PRECISIONS = ("fp32",)
AUGMENTS = ("none", "flip", "shift", "flip_shift")  # of augment.py, which imports torch
LEVEL_RETRAINS = ("weight_rewinding", "lr_rewinding", "fine_tuning")
RETRAINS = (*LEVEL_RETRAINS, "tutorial", "none")
REWIND_OPTIMIZERS = ("restored", "fresh")
_SPARSE_FIELDS = (
    "target_sparsity_pct", "granularity", "context", "criterion", "schedule", "prune_rate_pct", "prune_steps",
    "output_prune_rate_pct", "start_pct", "end_pct", "retrain", "rewind_epoch", "rewind_step", "rewind_optimizer",
)  # fmt: skip
_OPTIONAL: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("start_pct", lambda v: 0 <= v < 1, "a part of the fit in [0, 1), such as 0.25"),
    ("end_pct", lambda v: 0 <= v <= 1, "a part of the fit in [0, 1]"),
    ("warmup_pct", lambda v: 0 <= v < 1, "a part of the training in [0, 1), such as 0.05"),
    ("lr_drop_factor", lambda v: 0 < v < 1, "a factor between 0 and 1, such as 0.1"),
)  # checked also where they do not act, so that a mistake is not passed over


def normalise(spec: TrialSpec) -> None:
    """Bring a new spec to its canonical form, in place. Raises `UserError`."""
    _check_common(spec)
    _check_lr_policy(spec)
    _read_rewind_epoch(spec)
    if spec.ticket is not None:
        check_ticket(spec)
    if spec.control == "dense":
        _make_dense(spec)
        return
    if spec.width_pct is not None:
        raise bad_value("width_pct", spec.width_pct, f"None with control {spec.control}", "it is of dense networks")
    check_sparsity("sparsity", spec.target_sparsity_pct)
    _number(spec, "target_sparsity_pct", lambda v: 0 < v < 100, "per cent")
    if spec.ticket is not None:
        make_given(spec)
    else:
        lookup("criterion", str(spec.criterion), CRITERIA)
        _check_choice(spec, "granularity", GRANULARITIES)
        _check_choice(spec, "context", CONTEXTS)
        (_check_levels if spec.family == "levels" else _check_fit)(spec)
    if spec.control == DENSE_RESTARTS:
        _check_restarts(spec)
    elif spec.control != "none":
        _check_control(spec)


def check_sparsity(where: str, value: Any) -> None:
    """Refuse a per cent that is none: a fraction, a negative, 100 or more. Raises `UserError`."""
    expected = "per cent of the weights, more than 0 and less than 100"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise bad_value(where, value, expected)
    if 0 < value < 1:
        raise bad_value(where, value, expected, f"it is in per cent: did you mean {round(value * 100, 6):g}?")
    if value == 100:
        raise bad_value(where, value, expected, "at 100 no weight would be left")
    if value == 0:
        raise bad_value(where, value, expected, "0 is the dense network: dense baselines are part of every sweep")
    if not 0 < value < 100:
        raise bad_value(where, value, expected)


def _check_common(spec: TrialSpec) -> None:
    lookup("dataset", spec.dataset, DATASETS)
    lookup("model", spec.model, MODELS)
    for name, valid in (
        ("layers", LAYERS), ("optimizer", OPTIMIZERS), ("precision", PRECISIONS), ("control", KINDS),
        ("augment", AUGMENTS), ("lr_policy", LR_POLICIES),
    ):  # fmt: skip
        _check_choice(spec, name, valid)
    _number(spec, "lr", lambda v: v > 0, "a positive learning rate")
    _number(spec, "weight_decay", lambda v: v >= 0, "a number of at least 0")
    _number(spec, "momentum", lambda v: 0 <= v < 1, "a number in [0, 1)")
    if spec.optimizer == "adam":
        _number(spec, "beta2", lambda v: 0 <= v < 1, "a number in [0, 1)")
        _number(spec, "eps", lambda v: v > 0, "a positive number")
    else:
        _drop(spec, "beta2", "eps")
    for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("split_seed", 0)):
        _integer(spec, name, least)
    for name, valid_number, expected in _OPTIONAL:
        if getattr(spec, name) is not None:
            _number(spec, name, valid_number, expected)
    for name, least in (("prune_steps", 1), ("rewind_step", 1), ("order_seed", 0), ("validate_every", 1)):
        if getattr(spec, name) is not None:
            _integer(spec, name, least)
    if spec.order_seed == spec.seed:
        _drop(spec, "order_seed")
    if spec.rewind_optimizer is not None:
        _check_choice(spec, "rewind_optimizer", REWIND_OPTIMIZERS)
    if spec.output_prune_rate_pct is not None:
        check_sparsity("output_prune_rate", spec.output_prune_rate_pct)
    if spec.width_pct is not None:
        _number(spec, "width_pct", lambda v: 0 < v < 100, "per cent of the network's own width, less than 100")


def _make_dense(spec: TrialSpec) -> None:
    _set(spec, "control", "dense")
    _drop(spec, *_SPARSE_FIELDS)
    _set(spec, "reset_end", False)


def _check_restarts(spec: TrialSpec) -> None:
    """Rewinds under an all-ones mask that bring back all that was there make the dense run, which is what this is."""
    if spec.reset_end:
        raise bad_value("control", spec.control, "a ticket that is trained", "a supermask trains nothing after its end")
    brings_all_back = spec.rewind_optimizer is None or spec.rewind_epoch == 0
    if spec.retrain == "none" or (spec.retrain == "weight_rewinding" and brings_all_back):
        why = "nothing is rewound" if spec.retrain == "none" else "everything that a rewind brings back was there"
        whose = spec.schedule or "an imported ticket"
        note = f"dense_restarts of {whose} is the dense network of T epochs, and is taken as that: {why}"
        _make_dense(spec)
        _set(spec, "notes", (*spec.notes, note))


def _check_control(spec: TrialSpec) -> None:
    control = CONTROLS[spec.control]
    if not (control.of_supermasks if spec.reset_end else control.of_tickets):
        valid = [name for name, c in CONTROLS.items() if (c.of_supermasks if spec.reset_end else c.of_tickets)]
        kind = "a supermask (reset_end)" if spec.reset_end else "a ticket that is trained"
        raise bad_value("control", spec.control, f"{' or '.join(valid)} for {kind}")
    if not control.starts_over and not spec.rewinds:
        others = " or ".join(name for name, c in CONTROLS.items() if c.starts_over)
        raise bad_value(
            "control", spec.control, "a ticket that is rewound (retrain weight_rewinding or tutorial)",
            f"with retrain {spec.retrain} it starts from weights that are zero outside its own mask; take {others}",
        )  # fmt: skip
    if spec.given is not None and spec.given.masked and not control.starts_over:
        raise bad_value(
            "control", spec.control, "a ticket whose file has the weights outside its mask too",
            "the control keeps weights that are zero there; take reinit or random_sparse",
        )  # fmt: skip
    if any(after.sparsity < before.sparsity for before, after in itertools.pairwise(spec.prunes)):
        raise bad_value(
            "control", spec.control, "a schedule whose sparsity does not fall",
            f"{spec.schedule} ends with weights that came back, so its last mask is not a ticket's",
        )  # fmt: skip


def _check_lr_policy(spec: TrialSpec) -> None:
    """Settings of the learning-rate policy: its own defaults where none are given, None where they do not act."""
    policy = LR_POLICIES[spec.lr_policy]
    if spec.lr_drops is not None:
        parse_drops(spec.lr_drops)
    defaults = {"warmup_pct": policy.warmup_pct, "lr_drops": policy.drops, "lr_drop_factor": policy.drop_factor}
    for name, default in defaults.items():
        if default is None or getattr(spec, name) is None:
            _set(spec, name, default)


def _read_rewind_epoch(spec: TrialSpec) -> None:
    """ "500it" is an iteration: it goes to `rewind_step`, and `rewind_epoch` is None."""
    value: Any = spec.rewind_epoch
    if isinstance(value, str):
        number = value.removesuffix("it")
        if not number.isdecimal():
            raise bad_value("rewind_epoch", value, 'an epoch number such as 1, or an iteration such as "500it"')
        if value.endswith("it") and int(number) > 0:
            _set(spec, "rewind_epoch", None)
            _set(spec, "rewind_step", int(number))
        else:
            _set(spec, "rewind_epoch", int(number))
    elif spec.rewind_step is not None:
        _set(spec, "rewind_epoch", None)


def _check_levels(spec: TrialSpec) -> None:
    _drop(spec, "start_pct", "end_pct", "prune_steps")
    _set_retrain(spec, LEVEL_RETRAINS, "weight_rewinding")
    if spec.schedule == "imp":
        check_sparsity("prune_rate", spec.prune_rate_pct)
        _number(spec, "prune_rate_pct", lambda v: 0 < v < 100, "per cent")
        _check_output_rate(spec)
        _snap_to_rung(spec)
    else:
        _drop(spec, "prune_rate_pct", "output_prune_rate_pct")
    if spec.retrain == "weight_rewinding":
        _check_rewind(spec, spec.epochs, "the first prune, at the end of the level's epochs")
        if spec.rewind_epoch == spec.epochs:
            raise bad_value(
                "rewind_epoch",
                spec.rewind_epoch,
                f"less than epochs ({spec.epochs})",
                "no epoch would be left to retrain",
            )
        if spec.rewind_optimizer == "restored":
            _drop(spec, "rewind_optimizer")
    elif spec.reset_end:
        raise bad_value(
            "reset_end", True, "False", f"{spec.retrain} has no rewind weights that a supermask could end with"
        )
    else:
        _drop(spec, "rewind_epoch", "rewind_step", "rewind_optimizer")


def _check_output_rate(spec: TrialSpec) -> None:
    if spec.output_prune_rate_pct == spec.prune_rate_pct:
        _drop(spec, "output_prune_rate_pct")
    if spec.output_prune_rate_pct is not None:
        _number(spec, "output_prune_rate_pct", lambda v: 0 < v < 100, "per cent")
        if spec.context != "local":
            raise bad_value(
                "output_prune_rate", spec.output_prune_rate_pct, "the context local",
                "with context global all layers are ranked together, and no layer has a rate of its own",
            )  # fmt: skip


def _check_fit(spec: TrialSpec) -> None:
    _drop(spec, "prune_rate_pct", "output_prune_rate_pct", "rewind_optimizer")
    rule = spec.rule
    if spec.schedule == "iterative":
        _integer(spec, "prune_steps", 1)
    else:
        _drop(spec, "prune_steps")
    schedule = spec.make_schedule()
    _set(spec, "start_pct", float(schedule.start_pct))
    _set(spec, "end_pct", float(schedule.end_pct))
    _set_retrain(spec, ("tutorial", "none") if rule.stepwise else ("none",), "tutorial" if rule.stepwise else "none")
    first = spec.prunes[0].epoch
    if spec.retrain == "none" and not spec.reset_end:
        _drop(spec, "rewind_epoch", "rewind_step")
    elif spec.rewind_step is not None:
        raise bad_value(
            "rewind_epoch", f"{spec.rewind_step}it", f"an epoch with schedule {spec.schedule}",
            "within one fit prunes and resets fall on epochs; imp and omp rewind to an iteration",
        )  # fmt: skip
    else:
        _check_rewind(spec, first, "the first prune")


def _check_rewind(spec: TrialSpec, first_prune: int, event: str) -> None:
    if spec.rewind_step is not None:
        return  # how many iterations there are is known with the data: `segments` checks
    k = spec.rewind_epoch
    if isinstance(k, bool) or not isinstance(k, int) or k < 0:
        raise bad_value("rewind_epoch", k, "a whole epoch number, 0 or more (0: initialisation)")
    if k > first_prune:
        raise bad_value(
            "rewind_epoch",
            k,
            f"an epoch up to {event} of schedule {spec.schedule} (epoch {first_prune})",
            "weights can only be rewound to an epoch that the dense network has trained",
        )


def _set_retrain(spec: TrialSpec, valid: tuple[str, ...], default: str) -> None:
    if spec.retrain == "auto":
        _set(spec, "retrain", default)
    if spec.retrain not in valid:
        raise bad_value("retrain", spec.retrain, f"{' or '.join(valid)} with schedule {spec.schedule}")


def _snap_to_rung(spec: TrialSpec) -> None:
    from lth_trainable.spec.trial_spec import RUNG_TOLERANCE, fraction

    asked, levels = fraction(spec.target_sparsity_pct), spec.n_levels
    rung = 1 - (1 - fraction(spec.prune_rate_pct)) ** levels
    snapped = float(round(rung * 100, 2))
    if abs(rung - asked) > RUNG_TOLERANCE:
        note = (
            f"sparsity {spec.target_sparsity_pct:g} % is between rungs of {spec.prune_rate_pct:g} % a level; "
            f"taken as the next rung, {snapped:g} % (level {levels})"
        )
        _set(spec, "notes", (*spec.notes, note))
    _set(spec, "target_sparsity_pct", snapped)


def _check_choice(spec: TrialSpec, name: str, valid: Any) -> None:
    if getattr(spec, name) not in valid:
        raise unknown_name(name, getattr(spec, name), valid)


def _integer(spec: TrialSpec, name: str, least: int) -> None:
    value = getattr(spec, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise bad_value(name, value, f"a whole number of at least {least}")


def _number(spec: TrialSpec, name: str, valid: Callable[[float], bool], expected: str) -> None:
    value = getattr(spec, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not valid(value):
        raise bad_value(name, value, expected)
    _set(spec, name, float(value))


def _set(spec: TrialSpec, name: str, value: Any) -> None:
    object.__setattr__(spec, name, value)


def _drop(spec: TrialSpec, *names: str) -> None:
    for name in names:
        _set(spec, name, None)
