"""Validation of the values of a `TrialSpec`, and their canonical form. Pure; needs no torch.

In the canonical form defaults are resolved and fields without effect are None. The first mistake found is the one
reported, so checks are ordered by what a user would want to hear of first.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from lth_trainable.data.datasets import DATASETS, IMAGE_SIZES
from lth_trainable.errors import SEVERAL, bad_value, check_sparsity
from lth_trainable.models.networks import find_builder
from lth_trainable.pruning.controls import CONTROLS
from lth_trainable.pruning.criteria import ALSO_CALLED, CRITERIA
from lth_trainable.pruning.granularity import GRANULARITIES
from lth_trainable.pruning.masks import CONTEXTS
from lth_trainable.registry import lookup
from lth_trainable.scalars import is_several, plain
from lth_trainable.spec.draft import MOST_SEED, Draft
from lth_trainable.spec.learning_rate import LR_POLICIES, parse_drops
from lth_trainable.spec.rewind_point import RewindPoint
from lth_trainable.spec.sparsification import check_fit, check_levels
from lth_trainable.spec.ticket_id import parse_ticket
from lth_trainable.spec.values import (
    AUGMENTS,
    DENSE_RESTARTS,
    KINDS,
    LAYERS,
    OF_CONTROLS,
    OPTIMIZERS,
    PRECISIONS,
    RETRAIN_ORDERS,
    REWIND_OPTIMIZERS,
    USUAL_FLIP_PCT,
    family_of,
    prune_events,
    rewinds,
)

_SPARSE_FIELDS = (
    "target_sparsity_pct", "granularity", "context", "criterion", "schedule", "prune_rate_pct", "prune_steps",
    "output_prune_rate_pct", "start_pct", "end_pct", "retrain", "rewind_epoch", "rewind_step", "rewind_optimizer",
    "fine_tuning_lr_fraction", "retrain_order", *OF_CONTROLS,
)  # fmt: skip
# Values of the sparsification fields for an imported ticket: single weights, counted over all layers together.
IMPORTED_FIELDS = {
    "granularity": "weight", "context": "global", "criterion": None, "schedule": None, "prune_rate_pct": None,
    "prune_steps": None, "output_prune_rate_pct": None, "start_pct": None, "end_pct": None,
    "retrain": "weight_rewinding", "rewind_optimizer": None, "fine_tuning_lr_fraction": None, "retrain_order": None,
}  # fmt: skip
_OPTIONAL: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("start_pct", lambda v: 0 <= v < 1, "a fraction of the fit in [0, 1), such as 0.25"),
    ("end_pct", lambda v: 0 <= v <= 1, "a fraction of the fit in [0, 1]"),
    ("warmup_pct", lambda v: 0 <= v < 1, "a fraction of the training in [0, 1), such as 0.05"),
    ("lr_drop_factor", lambda v: 0 < v < 1, "a factor between 0 and 1, such as 0.1"),
    ("control_lr", lambda v: v > 0, "a positive learning rate"),
    ("sign_flip_pct", lambda v: 0 < v <= 100, "percent of the signs, more than 0 and at most 100"),
    ("fine_tuning_lr_fraction", lambda v: 0 < v <= 1, "a fraction of the learning rate in (0, 1], such as 0.01"),
)  # checked even if they have no effect, so that no mistake goes unnoticed


def normalise(values: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Validate the values of all fields of a spec. Returns them in canonical form, with notes on what was changed.

    Raises `UserError` for values that could not run.
    """
    if not _is_plain(values):
        values = _single(values)
        if not _is_plain(values):
            return _normalised(values)
    lookup("dataset", values["dataset"], DATASETS)  # a plug-in is looked at again for each trial
    find_builder(values["model"])
    found, notes = _of_any_seed(tuple(values), *({**values, "seed": 0}.values()))
    return {**found, "seed": values["seed"]}, notes


def _is_plain(values: Mapping[str, Any]) -> bool:
    """Whether the seed has no effect on the other values, and no plug-in has one."""
    seed, named = values["seed"], (values["criterion"], values["schedule"])
    is_seed = type(seed) is int and 0 <= seed <= MOST_SEED and values["order_seed"] is None
    return is_seed and _PLAIN.issuperset(map(type, values.values())) and ":" not in f"{named}"


def _single(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, of NumPy as Python's own. Raises `UserError` for several values in the place of one."""
    for name, value in values.items():
        if is_several(value):
            raise bad_value(_CALLED.get(name, name), value, "one value", SEVERAL)
    return {name: plain(value) for name, value in values.items()}


_CALLED = {"target_sparsity_pct": "sparsity", "prune_rate_pct": "prune_rate"}  # in messages
_PLAIN = frozenset((str, int, float, bool, type(None)))


@functools.lru_cache(maxsize=1 << 12, typed=True)  # typed: True is equal to 1, but no number of epochs
def _of_any_seed(names: tuple[str, ...], *values: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    return _normalised(dict(zip(names, values, strict=True)))


def _normalised(values: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    draft = Draft(**values, notes=[])
    _normalise(draft)
    return {name: getattr(draft, name) for name in values}, tuple(draft.notes)


def _normalise(draft: Draft) -> None:
    _check_common(draft)
    _check_lr_policy(draft)
    _read_rewind_epoch(draft)
    if draft.ticket is not None:
        _check_ticket(draft)
    if draft.control == "dense":
        _make_dense(draft)
        return
    if draft.width_pct is not None:
        raise bad_value("width_pct", draft.width_pct, f"None with control {draft.control}", "it is for dense networks")
    check_sparsity("sparsity", draft.target_sparsity_pct)
    draft.number("target_sparsity_pct", lambda v: 0 < v < 100, "percent")
    if draft.ticket is not None:
        _make_imported(draft)
    else:
        lookup("criterion", str(draft.criterion), CRITERIA, ALSO_CALLED)
        draft.choice("granularity", GRANULARITIES)
        draft.choice("context", CONTEXTS)
        (check_levels if family_of(draft.schedule, draft.control) == "levels" else check_fit)(draft)
    if draft.control in ("none", DENSE_RESTARTS):
        draft.drop(*OF_CONTROLS)
    if draft.control == DENSE_RESTARTS:
        _check_restarts(draft)
    elif draft.control != "none":
        _check_control(draft)
        _set_control(draft)


def _check_common(draft: Draft) -> None:
    lookup("dataset", draft.dataset, DATASETS)
    find_builder(draft.model)
    for name, valid in (
        ("layers", LAYERS), ("optimizer", OPTIMIZERS), ("precision", PRECISIONS), ("control", KINDS),
        ("augment", AUGMENTS), ("lr_policy", LR_POLICIES),
    ):  # fmt: skip
        draft.choice(name, valid)
    draft.number("lr", lambda v: v > 0, "a positive learning rate")
    draft.number("weight_decay", lambda v: v >= 0, "a number of at least 0")
    draft.number("momentum", lambda v: 0 <= v < 1, "a number in [0, 1)")
    if draft.optimizer == "adam":
        draft.number("beta2", lambda v: 0 <= v < 1, "a number in [0, 1)")
        draft.number("eps", lambda v: v > 0, "a positive number")
    else:
        draft.drop("beta2", "eps")
    for name in ("epochs", "batch_size"):
        draft.integer(name, 1)
    for name in ("seed", "split_seed"):
        draft.integer(name, 0, MOST_SEED)
    for name, valid_number, expected in _OPTIONAL:
        if getattr(draft, name) is not None:
            draft.number(name, valid_number, expected)
    for name in ("prune_steps", "rewind_step", "validate_every"):
        if getattr(draft, name) is not None:
            draft.integer(name, 1)
    if draft.order_seed is not None:
        draft.integer("order_seed", 0, MOST_SEED)
    _check_image_size(draft)
    if draft.order_seed == draft.seed:
        draft.drop("order_seed")
    if draft.rewind_optimizer is not None:
        draft.choice("rewind_optimizer", REWIND_OPTIMIZERS)
    if draft.retrain_order is not None:
        draft.choice("retrain_order", RETRAIN_ORDERS)
    if draft.output_prune_rate_pct is not None:
        check_sparsity("output_prune_rate", draft.output_prune_rate_pct)
    if draft.width_pct is not None:
        draft.number("width_pct", lambda v: 0 < v < 100, "percent of the network's own width, less than 100")


def _check_image_size(draft: Draft) -> None:
    if draft.image_size is None:
        return
    draft.integer("image_size", 1)
    own = IMAGE_SIZES.get(draft.dataset)
    if own is None:
        raise bad_value(
            "image_size", draft.image_size, f"None with the data set {draft.dataset}, whose images have one size",
            f"it is for {' and '.join(IMAGE_SIZES)}",
        )  # fmt: skip
    if draft.image_size == own:
        draft.drop("image_size")


def _make_dense(draft: Draft) -> None:
    draft.control = "dense"
    draft.drop(*_SPARSE_FIELDS)
    draft.reset_end = False


def _check_ticket(draft: Draft) -> None:
    """Raise `UserError` unless the text names a ticket and its weights are from an epoch before the last."""
    if parse_ticket(str(draft.ticket)).epoch >= draft.epochs:
        raise bad_value(
            "ticket", str(draft.ticket), f"weights from an epoch before the last ({draft.epochs})",
            "training starts at that epoch, so no epoch would be left; --rewind-epoch 0 trains all epochs",
        )  # fmt: skip


def _make_imported(draft: Draft) -> None:
    """The fields of an imported ticket: those that say how a ticket is found have no effect.

    Raises `UserError` for values that would need them.
    """
    for name, valid, why in (
        ("schedule", (None, "imp"), "its mask is imported"),  # imp: the field's default
        ("retrain", ("weight_rewinding", "auto"), "it is trained from the imported weights"),
        ("reset_end", (False,), "it is always trained"),
        ("rewind_step", (None,), "it starts at an epoch, not at an iteration"),
    ):
        if getattr(draft, name) not in valid:
            raise bad_value(name, getattr(draft, name), f"{valid[0]} with an imported ticket", why)
    for name, value in IMPORTED_FIELDS.items():
        setattr(draft, name, value)
    draft.rewind_epoch = parse_ticket(str(draft.ticket)).epoch


def _check_restarts(draft: Draft) -> None:
    """Check a dense network with the ticket's rewinds. If these change nothing, it is the plain dense network."""
    if draft.reset_end:
        raise bad_value(
            "control", draft.control, "a ticket that is trained", "a supermask is not trained after its rewind"
        )
    brings_all_back = draft.rewind_optimizer is None or draft.rewind_epoch == 0
    brings_all_back = brings_all_back and draft.retrain_order is None  # with a new order the retraining differs
    if draft.retrain == "none" or (draft.retrain == "weight_rewinding" and brings_all_back):
        why = "nothing is rewound" if draft.retrain == "none" else "its rewinds restore the state that is there already"
        whose = draft.schedule or "an imported ticket"
        note = f"dense_restarts of {whose} is the same as the dense network of T epochs and is taken as that: {why}"
        _make_dense(draft)
        draft.notes.append(note)


def _check_control(draft: Draft) -> None:
    control = CONTROLS[draft.control]
    if not (control.of_supermasks if draft.reset_end else control.of_tickets):
        valid = [name for name, c in CONTROLS.items() if (c.of_supermasks if draft.reset_end else c.of_tickets)]
        kind = "a supermask (reset_end)" if draft.reset_end else "a ticket that is trained"
        raise bad_value("control", draft.control, f"{' or '.join(valid)} for {kind}")
    if not control.starts_over and not rewinds(draft.retrain, draft.reset_end):
        others = " or ".join(name for name, c in CONTROLS.items() if c.starts_over)
        raise bad_value(
            "control", draft.control, "a ticket that is rewound (retrain weight_rewinding or tutorial)",
            f"with retrain {draft.retrain} it starts from weights that are zero outside its own mask; choose {others}",
        )  # fmt: skip
    if draft.ticket is not None and parse_ticket(draft.ticket).masked and not control.starts_over:
        raise bad_value(
            "control", draft.control, "a ticket whose file also has the weights outside its mask",
            "they are zero here, and the control would train from them; choose reinit or random_sparse",
        )  # fmt: skip
    if family_of(draft.schedule, draft.control) == "fit" and _falls(draft):
        raise bad_value(
            "control", draft.control, "a schedule whose sparsity never falls",
            f"{draft.schedule} ends with pruned weights back in the network, so its last mask is not that of a ticket",
        )  # fmt: skip


def _set_control(draft: Draft) -> None:
    """Set what only acts in a control: the share of flipped signs, and the learning rate of its own level."""
    if draft.control != "sign_flip":
        draft.drop("sign_flip_pct")
    elif draft.sign_flip_pct is None:
        draft.sign_flip_pct = USUAL_FLIP_PCT
    if draft.reset_end or draft.control_lr == draft.lr:
        draft.drop("control_lr")
    elif draft.control_lr is not None and family_of(draft.schedule, draft.control) == "fit":
        raise bad_value(
            "control_lr", draft.control_lr, f"None with schedule {draft.schedule}",
            "within one fit the learning rate runs on; only imp, omp and imported tickets have a level of their own",
        )  # fmt: skip


def _falls(draft: Draft) -> bool:
    """Whether the sparsity falls at a later prune, so that pruned weights return."""
    events = prune_events(draft.schedule_of_fit(), draft.epochs, draft.target_sparsity_pct)
    return any(after.sparsity < before.sparsity for before, after in itertools.pairwise(events))


def _check_lr_policy(draft: Draft) -> None:
    """Set what the learning-rate policy leaves open: its defaults, and None for settings that it does not use."""
    policy = LR_POLICIES[draft.lr_policy]
    if draft.lr_drops is not None:
        parse_drops(draft.lr_drops)
    defaults = {"warmup_pct": policy.warmup_pct, "lr_drops": policy.drops, "lr_drop_factor": policy.drop_factor}
    for name, default in defaults.items():
        if default is None or getattr(draft, name) is None:
            setattr(draft, name, default)


def _read_rewind_epoch(draft: Draft) -> None:
    """Read a rewind point in text. An iteration such as "500it" moves to `rewind_step`; `rewind_epoch` becomes None."""
    if isinstance(draft.rewind_epoch, str):
        point = RewindPoint.parse(draft.rewind_epoch)
        draft.rewind_epoch = point.epoch
        draft.rewind_step = draft.rewind_step if point.iteration is None else point.iteration
    elif draft.rewind_step is not None:
        draft.rewind_epoch = None
