"""TrialSpec: the complete description of one trial. Frozen and validated; needs no torch.

It holds everything that changes the result of a trial, and nothing about where the trial runs (storage, cluster). A
field without effect is None, such as the rewind epoch of a dense baseline or the prune rate of a one-shot schedule. So
two trials that mean the same are equal objects.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Any, ClassVar

from lth_trainable.data.datasets import DATASETS, IMAGE_SIZES
from lth_trainable.errors import UserError, bad_value
from lth_trainable.models.networks import MODELS
from lth_trainable.pruning.controls import CONTROLS
from lth_trainable.pruning.criteria import CRITERIA
from lth_trainable.pruning.granularity import GRANULARITIES
from lth_trainable.pruning.levels import n_levels, rungs
from lth_trainable.pruning.masks import CONTEXTS
from lth_trainable.pruning.schedules import SCHEDULES, Prune, Schedule
from lth_trainable.registry import code_digest
from lth_trainable.spec.learning_rate import LR_POLICIES, LrCurve, parse_drops
from lth_trainable.spec.naming import trial_name
from lth_trainable.spec.normalise import normalise
from lth_trainable.spec.rewind_point import INITIALISATION, RewindPoint
from lth_trainable.spec.ticket_id import TicketId, parse_ticket
from lth_trainable.spec.values import (
    AUGMENTS,
    DENSE_RESTARTS,
    KINDS,
    LAYERS,
    OPTIMIZERS,
    PRECISIONS,
    RETRAIN_ORDERS,
    RETRAINS,
    REWIND_OPTIMIZERS,
    canonical_json,
    family_of,
    fraction,
    make_schedule,
    prune_events,
    rewinds,
    usual_order,
)

DataKey = tuple[Any, ...]  # of `TrialSpec.data_key`: arguments of `load_dataset`, without the folder


def _choice(default: str | None, names: tuple[str, ...] | Mapping[str, Any], text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": f"{text} (one of {', '.join(names)})", "names": names, **more})


def _help(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One trial: data, model, optimisation, seed, sparsification, retraining, control.

    Units: sparsity and prune rate in percent (0 to 100) of the prunable weights; epochs are whole passes over the
    training data; `start_pct` and `end_pct` are fractions of the fit in [0, 1]. Raises `UserError` for anything that
    could not run. `notes` says what validation changed, such as a target moved to the next rung of its ladder.
    """

    dataset: str = _choice("digits", DATASETS, "data set")
    split_seed: int = _help(
        0, "seed of the data split, the same for all trials; seed: each seed has a split of its own", as_text="N|seed"
    )
    batch_size: int = _help(60, "training images per step")
    model: str = _choice("lenet_300_100", MODELS, "network; also torchvision:NAME and timm:NAME")
    layers: str = _choice("auto", LAYERS, "layers to prune; auto: convolutions, or linear layers if there are none")
    optimizer: str = _choice("adam", OPTIMIZERS, "optimiser")
    lr: float = _help(1.2e-3, "learning rate; with a policy that changes it, the largest")
    momentum: float = _help(0.9, "momentum (for adam: beta1)")
    beta2: float | None = _help(0.999, "adam's beta2")
    eps: float | None = _help(1e-8, "adam's epsilon")
    weight_decay: float = _help(0.0, "weight decay: decoupled for adam, L2 for sgd")
    precision: str = _choice(
        "fp32", PRECISIONS, "floating-point precision of products; auto: bf16 on GPUs that have it, otherwise fp32"
    )
    epochs: int = _help(20, "epochs per level (imp, omp), or of the whole fit (other schedules, dense)")
    seed: int = _help(0, "seed of the replicate: initialisation, data order and everything else random")
    order_seed: int | None = _help(None, "seed of the data order; None: the trial's own seed")
    control: str = _choice(
        "none", KINDS, "none: a ticket; dense: the baseline; otherwise a control that the ticket must beat"
    )
    target_sparsity_pct: float | None = _help(50.0, "weights to remove, percent (0 to 100)")
    granularity: str | None = _choice("weight", GRANULARITIES, "unit of pruning: the weights that are removed together")
    context: str | None = _choice(
        "local",
        CONTEXTS,
        "local: prune each layer to the target; global: rank the weights of all layers together; output_row: "
        "prune each output row of a layer to the target, as usual for wanda",
    )
    criterion: str | None = _choice("large_final", CRITERIA, "score that decides which weights are kept")
    schedule: str | None = _choice("imp", SCHEDULES, "when to prune")
    prune_rate_pct: float | None = _help(40.0, "imp: percent of the remaining weights removed at each level")
    prune_steps: int | None = _help(3, "iterative: number of prune steps within the fit")
    start_pct: float | None = _help(None, "fraction of the fit before the first prune; None: the schedule's default")
    end_pct: float | None = _help(
        None, "fraction of the fit at which the target is reached; None: the schedule's default"
    )
    retrain: str | None = _choice(
        "auto", ("auto", *RETRAINS), "how training goes on after a prune; auto: as in the paper of the schedule"
    )
    rewind_epoch: int | None = _help(
        0, "epoch to rewind a ticket to, or iteration, such as 500it; 0: initialisation", as_text="K"
    )
    reset_end: bool = _help(False, "end with the rewind weights under the final mask, untrained (a supermask)")
    augment: str = _choice("none", AUGMENTS, "augmentation of the training images", noop="none")
    lr_policy: str = _choice(
        "constant", LR_POLICIES, "how the learning rate changes within a level or fit", noop="constant"
    )
    warmup_pct: float | None = _help(None, "fraction of the training in which the learning rate ramps up", noop=None)
    lr_drops: str | None = _help(
        None, "lr_policy steps: fractions of the training at which the learning rate drops", noop=None
    )
    lr_drop_factor: float | None = _help(None, "lr_policy steps: factor of each drop", noop=None)
    rewind_step: int | None = _help(None, "iteration to rewind a ticket to, instead of an epoch", noop=None)
    rewind_optimizer: str | None = _choice(
        None, REWIND_OPTIMIZERS, "optimiser state at a weight rewind; None: restored with the weights", noop=None
    )
    output_prune_rate_pct: float | None = _help(
        None, "imp: prune rate of the output layer (the last pruned layer); None: the same as the others", noop=None
    )
    validate_every: int | None = _help(
        None, "iterations between validations, for a finer early stop; None: at the end of each epoch", noop=None,
        unit="iterations",
    )  # fmt: skip
    width_pct: float | None = _help(None, "dense: width of the hidden layers; None: the network's own width", noop=None)
    image_size: int | None = _help(
        None, f"side of the images in pixels, for {' and '.join(IMAGE_SIZES)}; None: the data set's own", noop=None,
        unit="pixels",
    )  # fmt: skip
    ticket: str | None = _help(
        None, "imported ticket, by its digest; its weights are imported too, so the seed sets only the data order",
        noop=None,
    )  # fmt: skip
    fine_tuning_lr_fraction: float | None = _help(
        None, "retrain fine_tuning: learning rate after a prune, as a fraction of lr; None: the last one of the policy",
        noop=None, unit="fraction of lr",
    )  # fmt: skip
    retrain_order: str | None = _choice(
        None, RETRAIN_ORDERS, "data order of a level after a prune: same, as in the training that found the mask, or "
        "new; None: same after a weight rewind, new for lr_rewinding and fine_tuning", noop=None,
    )  # fmt: skip
    control_lr: float | None = _help(
        None, "controls of tickets in levels: learning rate of their own last level; None: lr, as that of the ticket",
        noop=None,
    )  # fmt: skip
    sign_flip_pct: float | None = _help(
        None, "control sign_flip: percent of the kept weights of each layer that change their sign; None: 10", noop=None
    )

    notes: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        values, notes = normalise(self.values)
        for (name, value), given in zip(values.items(), _values_of(self), strict=True):
            if value is not given:
                object.__setattr__(self, name, value)
        if notes:
            object.__setattr__(self, "notes", notes)

    @property
    def values(self) -> dict[str, Any]:
        """The values of all fields, by field name."""
        return dict(zip(_NAMES, _values_of(self), strict=True))

    # -- derived -----------------------------------------------------------------------------------------------------

    @property
    def data_key(self) -> DataKey:
        """What names the data of the trial: data set and split seed, and the size of its images if that is set."""
        named = self.dataset, self.split_seed
        return named if self.image_size is None else (*named, self.image_size)

    @property
    def is_dense(self) -> bool:
        return self.control == "dense"

    @property
    def parent(self) -> str | None:
        """Name of the ticket that this control, or dense network with restarts, belongs to; None for other trials."""
        return None if self.control in ("none", "dense") else replace(self, control="none").name

    @property
    def starts_over(self) -> bool:
        """Whether the last level trains from a new initialisation, from step 0."""
        return self.control in CONTROLS and CONTROLS[self.control].starts_over

    @property
    def acts_at_prune(self) -> bool:
        """Whether this is a control that acts at the last prune. A control of a supermask acts at the end instead."""
        return self.control in CONTROLS and not self.reset_end

    @property
    def restarts(self) -> bool:
        """Whether this is a dense network with the rewinds of its ticket, but without the prunes."""
        return self.control == DENSE_RESTARTS

    @property
    def family(self) -> str:
        """The kind of trial: "levels", "fit", "imported" or "dense"; see `family_of`."""
        return family_of(self.schedule, self.control)

    @property
    def ticket_id(self) -> TicketId | None:
        """The imported ticket that this trial trains or is compared with; None in runs without one."""
        return None if self.ticket is None else parse_ticket(self.ticket)

    @property
    def starts_from_imported(self) -> bool:
        """Whether the initial weights are imported. A dense network needs the weights outside the mask as well."""
        if self.ticket_id is None:
            return False
        return not self.is_dense or (not self.ticket_id.masked and self.width_pct is None)

    @property
    def start_epoch(self) -> int:
        """Epoch at which training starts: later than 0 for imported weights that were trained before."""
        return self.ticket_id.epoch if self.ticket_id is not None and self.starts_from_imported else 0

    @property
    def level_sparsities(self) -> tuple[Fraction, ...]:
        """Exact sparsity, as a fraction, at each of the levels 1, 2, ...; empty for a dense trial."""
        if self.is_dense:
            return ()
        if self.schedule == "imp":
            return (Fraction(0),) * self.n_levels if self.restarts else rungs(self.prune_rate_pct, self.n_levels)
        if self.schedule in ("omp", None):
            return (Fraction(0) if self.restarts else fraction(self.target_sparsity_pct),)
        return tuple(prune.sparsity for prune in self.prunes)

    @property
    def output_sparsities(self) -> tuple[Fraction | None, ...]:
        """Exact sparsity of the output layer at each level; None if it has no prune rate of its own."""
        if self.output_prune_rate_pct is None or self.restarts:
            return (None,) * len(self.level_sparsities)
        return rungs(self.output_prune_rate_pct, self.n_levels)

    @property
    def n_levels(self) -> int:
        """Number of levels L of an imp trial: the smallest integer with (1-p)^L <= 1 - s + 1e-4."""
        return n_levels(self.prune_rate_pct, self.target_sparsity_pct)

    @property
    def prunes(self) -> tuple[Prune, ...]:
        """Prune events of a within-fit schedule; empty for the other families."""
        if self.family != "fit":
            return ()
        events = prune_events(self.make_schedule(), self.epochs, self.target_sparsity_pct)
        return tuple(Prune(event.epoch, Fraction(0)) for event in events) if self.restarts else events

    def make_schedule(self) -> Schedule:
        """The `Schedule` of a within-fit trial."""
        return make_schedule(self.schedule, self.prune_steps, self.start_pct, self.end_pct)

    @property
    def rewinds(self) -> bool:
        """Whether weights are rewound to an earlier point, after a prune or at the end."""
        return rewinds(self.retrain, self.reset_end)

    @property
    def rewind_point(self) -> RewindPoint | None:
        """The point that weights are rewound to; None if nothing is rewound."""
        return RewindPoint.of(self.rewind_epoch, self.rewind_step)

    @property
    def order_is_new(self) -> bool:
        """Whether each level has a new data order, and not that of the training that found the mask."""
        return self.retrain_order == "new" or (self.retrain_order is None and usual_order(self.retrain) == "new")

    def epochs_alone(self, steps_per_epoch: int | None = None) -> int:
        """Epochs that this trial trains if it shares none: T + L (T - k) with levels, otherwise those of the fit.

        A control that starts over trains its last level for T epochs. An epoch that a rewind cuts counts as one. If
        `steps_per_epoch` is None, a rewind to an iteration is counted as one within the first epoch.
        """
        if self.family != "levels":
            return self.epochs - (0 if self.starts_over else self.start_epoch)
        k = (self.rewind_point or INITIALISATION).epoch_at(steps_per_epoch)
        return self.epochs + len(self.level_sparsities) * (self.epochs - k) + (k if self.starts_over else 0)

    @property
    def cycles_momentum(self) -> bool:
        """Whether momentum (for adam: beta1) moves with the learning rate."""
        return LR_POLICIES[self.lr_policy].cycles_momentum

    def lr_curve(self, steps_per_epoch: int) -> LrCurve:
        """Learning rate and momentum of every step of a level, or of the whole fit."""
        return LrCurve(
            policy=self.lr_policy, lr=self.lr, momentum=self.momentum, total_steps=self.epochs * steps_per_epoch,
            warmup_pct=self.warmup_pct, drops=parse_drops(self.lr_drops) if self.lr_drops else None,
            drop_factor=self.lr_drop_factor,
        )  # fmt: skip

    @functools.cached_property
    def name(self) -> str:
        """A readable and unique name: the coordinates of the trial, then each field that is not at its default."""
        values = self.values
        return trial_name(values, usual_values(values))

    def canonical(self) -> dict[str, Any]:
        """The fields that identify the trial. One added after the first version is left out at its no-op value."""
        return _canonical(self.values)

    def key(self, data_digest: str) -> str:
        """SHA-256 (hex) of all that identifies the trial: canonical fields, digest of the data, digests of plug-ins."""
        values = {**self.values, "seed": None}.values()
        before, after = _text_around_seed(data_digest, tuple(self.code_digests().items()), *values)
        return hashlib.sha256(f"{before}{self.seed}{after}".encode()).hexdigest()

    def code_digests(self) -> dict[str, str]:
        """Digest of the module of each plug-in, by field name; empty for a trial without plug-ins."""
        named = {name: getattr(self, name) for name in ("dataset", "model", "criterion", "schedule")}
        found = {name: code_digest(value) for name, value in named.items() if value is not None}
        return {name: value for name, value in found.items() if value is not None}


DEFAULTS = {f.name: f.default for f in fields(TrialSpec)}
_NAMES = tuple(DEFAULTS)
_NOOPS = {f.name: f.metadata["noop"] for f in fields(TrialSpec) if "noop" in f.metadata}
_SEED = "the place of the seed"  # no field has this value
_values_of = operator.attrgetter(*_NAMES)


def _canonical(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _NOOPS or value != _NOOPS[name]}


@functools.lru_cache(maxsize=1 << 12, typed=True)
def _text_around_seed(data_digest: str, code: tuple[tuple[str, str], ...], *values: Any) -> tuple[str, str]:
    """The text whose SHA-256 is a trial's key, before and after its seed. values: of all fields, without the seed.

    Trials that differ only in the seed have it in common, and writing it is most of the work.
    """
    spec = {**_canonical(dict(zip(_NAMES, values, strict=True))), "seed": _SEED}
    text = canonical_json({"spec": spec, "data": data_digest, "code": dict(code)})
    before, _, after = text.partition(json.dumps(_SEED))
    return before, after


def usual_values(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The default values of all fields in a trial of this schedule, optimiser and learning-rate policy."""
    return _usual(values["schedule"], values["optimizer"], values["lr_policy"], values["control"] == "dense")


def spec_from_dict(content: Mapping[str, Any]) -> TrialSpec:
    """The spec in a record. Raises `UserError` for fields that this version does not know."""
    unknown = sorted(content.keys() - DEFAULTS.keys())
    if unknown:
        raise UserError(f"trial spec: unknown fields {', '.join(unknown)}; it was written by a newer version")
    check_types(content)
    return TrialSpec(**content)


def check_types(content: Mapping[str, Any]) -> None:
    """Raise `UserError` if a field of a spec in a file has a value of another type than the field."""
    if not isinstance(content, Mapping):
        raise bad_value("trial spec", content, "an object with its fields")
    for name, value in content.items():
        if type(value) not in _TYPES.get(name, (type(value),)):
            raise bad_value(f"trial spec, {name}", value, " or ".join(sorted(t.__name__ for t in _TYPES[name])))


def _types_of(hint: Any) -> tuple[type, ...]:
    types = typing.get_args(hint) or (hint,)
    return (*types, int) if float in types else types


_TYPES = {name: _types_of(hint) for name, hint in typing.get_type_hints(TrialSpec).items() if name in DEFAULTS}


@functools.lru_cache
def _usual(schedule: str | None, optimizer: str, lr_policy: str, is_dense: bool) -> Mapping[str, Any]:
    # `normalise` resolves what depends on the arguments; the arguments' own fields keep their plain defaults
    kind: dict[str, Any] = {"optimizer": optimizer, "lr_policy": lr_policy}
    if is_dense:
        kind["control"] = "dense"
    elif schedule is None:
        kind["ticket"] = "0" * 64  # any digest
    else:
        kind["schedule"] = schedule
    return normalise(DEFAULTS | kind)[0] | {name: DEFAULTS[name] for name in kind}
