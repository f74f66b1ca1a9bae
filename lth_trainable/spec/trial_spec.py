"""TrialSpec: what one trial is. Frozen, validated, canonical; no torch.

Everything that changes what a trial *means* is here; where it runs (storage, cluster, packing) is not. A field that
does not act in a trial (the rewind epoch of a dense baseline, the prune rate of a one-shot schedule) is None, so that
equal trials are equal objects.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Any, ClassVar

from lth_trainable.data.datasets import DATASETS
from lth_trainable.errors import UserError
from lth_trainable.models.networks import MODELS
from lth_trainable.pruning.controls import CONTROLS
from lth_trainable.pruning.criteria import CRITERIA
from lth_trainable.pruning.granularity import GRANULARITIES
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
    RETRAINS,
    REWIND_OPTIMIZERS,
    digest,
    family_of,
    fraction,
    make_schedule,
    n_levels,
    prune_events,
    rewinds,
    rungs,
)


def _choice(default: str | None, names: tuple[str, ...] | Mapping[str, Any], text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": f"{text}: {', '.join(names)}", "names": names, **more})


def _help(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One trial: data, model, optimisation, seed, sparsification, retraining, control.

    Units: sparsity and prune rate in per cent (0 to 100) of the prunable weights; epochs are whole passes over the
    training data; `start_pct` and `end_pct` are parts of the fit in [0, 1]. Raises `UserError` on anything that could
    not run. `notes` says what validation changed, such as a target that snapped to the next rung of its ladder.
    """

    dataset: str = _choice("digits", DATASETS, "data set")
    split_seed: int = _help(0, "which part is held out; fixed, so that trials never differ in their data")
    batch_size: int = _help(60, "training pictures a step")
    model: str = _choice("lenet_300_100", MODELS, "network")
    layers: str = _choice("auto", LAYERS, "layers that are pruned; auto: convolutions, or linear layers where none")
    optimizer: str = _choice("adam", OPTIMIZERS, "optimiser")
    lr: float = _help(1.2e-3, "learning rate; the largest, where the policy moves it")
    momentum: float = _help(0.9, "momentum (adam: beta1)")
    beta2: float | None = _help(0.999, "adam's second decay rate")
    eps: float | None = _help(1e-8, "adam's epsilon")
    weight_decay: float = _help(0.0, "weight decay; decoupled (adam), L2 (sgd)")
    precision: str = _choice("fp32", PRECISIONS, "arithmetic")
    epochs: int = _help(20, "epochs a level (imp, omp), or of the whole fit (other schedules, dense)")
    seed: int = _help(0, "the replicate: initialisation, data order and everything else random")
    order_seed: int | None = _help(None, "data order of another seed; None: the trial's own")
    control: str = _choice("none", KINDS, "none: a ticket; dense: the baseline; else a network it must beat")
    target_sparsity_pct: float | None = _help(50.0, "weights to remove, per cent (0 to 100)")
    granularity: str | None = _choice("weight", GRANULARITIES, "what is removed together")
    context: str | None = _choice(
        "local", CONTEXTS, "local: each layer to the target; global: all layers ranked together"
    )
    criterion: str | None = _choice("large_final", CRITERIA, "what is kept")
    schedule: str | None = _choice("imp", SCHEDULES, "when is pruned")
    prune_rate_pct: float | None = _help(40.0, "imp: per cent of the remaining weights removed at a level")
    prune_steps: int | None = _help(3, "iterative: prune steps within the fit")
    start_pct: float | None = _help(None, "part of the fit before the first prune; None: the schedule's own")
    end_pct: float | None = _help(None, "part of the fit at which the target is reached; None: the schedule's own")
    retrain: str | None = _choice(
        "auto", ("auto", *RETRAINS), "what returns after a prune; auto: as the schedule's papers do"
    )
    rewind_epoch: int | None = _help(
        0, "epoch (or iteration, as 500it) that a ticket is rewound to; 0: initialisation", as_text="K"
    )
    reset_end: bool = _help(False, "end with the rewind weights under the final mask (a supermask), untrained")
    augment: str = _choice("none", AUGMENTS, "what is done to training pictures", noop="none")
    lr_policy: str = _choice(
        "constant", LR_POLICIES, "how the learning rate moves within a level or fit", noop="constant"
    )
    warmup_pct: float | None = _help(None, "part of the training in which the learning rate ramps up", noop=None)
    lr_drops: str | None = _help(None, "lr_policy steps: parts of the training after which it drops", noop=None)
    lr_drop_factor: float | None = _help(None, "lr_policy steps: factor of a drop", noop=None)
    rewind_step: int | None = _help(None, "iteration that a ticket is rewound to, in place of an epoch", noop=None)
    rewind_optimizer: str | None = _choice(
        None, REWIND_OPTIMIZERS, "optimiser at a weight rewind; None: restored with the weights", noop=None
    )
    output_prune_rate_pct: float | None = _help(
        None, "imp: rate of the output layer, the last that is pruned; None: that of all", noop=None
    )
    validate_every: int | None = _help(
        None, "iterations between validations, for a finer early stop; None: as each epoch ends", noop=None,
        unit="iterations",
    )  # fmt: skip
    width_pct: float | None = _help(None, "dense: width of the hidden layers; None: the network's own", noop=None)
    ticket: str | None = _help(
        None, "imported ticket, by its digest: its weights are given, so that the seed is that of the data order alone",
        noop=None,
    )  # fmt: skip

    notes: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        values, notes = normalise(self.values)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if notes:
            object.__setattr__(self, "notes", notes)

    @property
    def values(self) -> dict[str, Any]:
        """All fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    # -- derived -----------------------------------------------------------------------------------------------------

    @property
    def is_dense(self) -> bool:
        return self.control == "dense"

    @property
    def parent(self) -> str | None:
        """Name of the ticket whose branch this trial is: of a control, or dense with restarts; None for all others."""
        return None if self.control in ("none", "dense") else replace(self, control="none").name

    @property
    def starts_over(self) -> bool:
        """Whether the last level trains a new initialisation, from step 0."""
        return self.control in CONTROLS and CONTROLS[self.control].starts_over

    @property
    def acts_at_prune(self) -> bool:
        """Whether this is a control that acts at its last prune; one of a supermask acts at the end."""
        return self.control in CONTROLS and not self.reset_end

    @property
    def restarts(self) -> bool:
        """Whether nothing is pruned where the ticket is: its rewinds under an all-ones mask."""
        return self.control == DENSE_RESTARTS

    @property
    def family(self) -> str:
        """The kind of trial: "levels", "fit", "imported" or "dense"; see `family_of`."""
        return family_of(self.schedule, self.control)

    @property
    def ticket_id(self) -> TicketId | None:
        """The imported ticket of this trial, or beside it."""
        return None if self.ticket is None else parse_ticket(self.ticket)

    @property
    def starts_from_imported(self) -> bool:
        """Whether its initial weights are the imported ones. A dense network needs those outside the mask too."""
        if self.ticket_id is None:
            return False
        return not self.is_dense or (not self.ticket_id.masked and self.width_pct is None)

    @property
    def start_epoch(self) -> int:
        """Epoch of the initial weights, on the clock of learning rate and data order."""
        return self.ticket_id.epoch if self.ticket_id is not None and self.starts_from_imported else 0

    @property
    def level_sparsities(self) -> tuple[Fraction, ...]:
        """Exact sparsity (fraction) in force at each level 1, 2, ...; empty for a dense trial."""
        if self.is_dense:
            return ()
        if self.schedule == "imp":
            return (Fraction(0),) * self.n_levels if self.restarts else rungs(self.prune_rate_pct, self.n_levels)
        if self.schedule in ("omp", None):
            return (Fraction(0) if self.restarts else fraction(self.target_sparsity_pct),)
        return tuple(prune.sparsity for prune in self.prunes)

    @property
    def output_sparsities(self) -> tuple[Fraction | None, ...]:
        """Exact sparsity of the output layer at each level, None where it has no rate of its own."""
        if self.output_prune_rate_pct is None or self.restarts:
            return (None,) * len(self.level_sparsities)
        return rungs(self.output_prune_rate_pct, self.n_levels)

    @property
    def n_levels(self) -> int:
        """L of an imp trial, the smallest integer with (1-p)^L <= 1 - s + 1e-4."""
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
        """Whether weights of an earlier point return: after a prune, or at the end."""
        return rewinds(self.retrain, self.reset_end)

    @property
    def rewind_point(self) -> RewindPoint | None:
        """The point whose weights return; None where none do."""
        return RewindPoint.of(self.rewind_epoch, self.rewind_step)

    @property
    def order_is_new(self) -> bool:
        """Whether each level sees the data in an order of its own: where training goes on from the pruned weights."""
        return self.retrain in ("lr_rewinding", "fine_tuning")

    def epochs_alone(self, steps_per_epoch: int | None = None) -> int:
        """Epochs that this trial trains when nothing is shared: T + L (T - k) for levels, else the fit's epochs.

        A control that starts over trains its last level for T. The epoch in which a rewind iteration lies counts as
        one. Without `steps_per_epoch` it is taken as the first.
        """
        if self.family != "levels":
            return self.epochs - (0 if self.starts_over else self.start_epoch)
        k = (self.rewind_point or INITIALISATION).epoch_at(steps_per_epoch)
        return self.epochs + len(self.level_sparsities) * (self.epochs - k) + (k if self.starts_over else 0)

    def lr_curve(self, steps_per_epoch: int) -> LrCurve:
        """Learning rate and momentum of every step of a level, or of the whole fit."""
        return LrCurve(
            policy=self.lr_policy, lr=self.lr, momentum=self.momentum, total_steps=self.epochs * steps_per_epoch,
            warmup_pct=self.warmup_pct, drops=parse_drops(self.lr_drops) if self.lr_drops else None,
            drop_factor=self.lr_drop_factor,
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Readable and unique: the coordinates of the trial, then every other field that is not at its default."""
        values = self.values
        return trial_name(values, usual_values(values))

    def canonical(self) -> dict[str, Any]:
        """The identity, field by field. A field added after the first version enters when it is off its no-op value."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if "noop" not in f.metadata or getattr(self, f.name) != f.metadata["noop"]
        }

    def key(self, data_digest: str) -> str:
        """SHA-256 (hex) of the identity: canonical fields, the data's digest, digests of plugged-in code."""
        return digest({"spec": self.canonical(), "data": data_digest, "code": self.code_digests()})

    def code_digests(self) -> dict[str, str]:
        """Digest of each plugged-in function's module, by field name; empty when all names are our own."""
        named = {name: getattr(self, name) for name in ("dataset", "model", "criterion", "schedule")}
        found = {name: code_digest(value) for name, value in named.items() if value is not None}
        return {name: value for name, value in found.items() if value is not None}


DEFAULTS = {f.name: f.default for f in fields(TrialSpec)}


def usual_values(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a trial of this schedule, optimiser and learning-rate policy has where its fields are at their defaults."""
    return _usual(values["schedule"], values["optimizer"], values["lr_policy"], values["control"] == "dense")


def spec_from_dict(content: Mapping[str, Any]) -> TrialSpec:
    """The spec of a record. Raises `UserError` for fields that this version does not know."""
    names = {f.name for f in fields(TrialSpec)}
    unknown = sorted(set(content) - names)
    if unknown:
        raise UserError(f"trial spec: unknown fields {', '.join(unknown)}; it was written by a newer version")
    return TrialSpec(**content)


@functools.lru_cache
def _usual(schedule: str | None, optimizer: str, lr_policy: str, is_dense: bool) -> Mapping[str, Any]:
    """`normalise` of these alone; the fields that name the kind are at their own defaults."""
    kind: dict[str, Any] = {"optimizer": optimizer, "lr_policy": lr_policy}
    if is_dense:
        kind["control"] = "dense"
    elif schedule is None:
        kind["ticket"] = "0" * 64  # any
    else:
        kind["schedule"] = schedule
    return normalise(DEFAULTS | kind)[0] | {name: DEFAULTS[name] for name in kind}
