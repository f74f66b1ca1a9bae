"""TrialSpec: what one trial is. Frozen, validated, canonical; no torch.

Everything that changes what a trial *means* is here; where it runs (storage, cluster, packing) is not. A field that
does not act in a trial (the rewind epoch of a dense baseline, the prune rate of a one-shot schedule) is None, so that
equal trials are equal objects.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any, ClassVar

from lth_trainable.criteria import CRITERIA
from lth_trainable.data import DATASETS
from lth_trainable.errors import UserError, bad_value, unknown_name
from lth_trainable.granularity import GRANULARITIES
from lth_trainable.masks import CONTEXTS
from lth_trainable.models import MODELS
from lth_trainable.naming import trial_name
from lth_trainable.registry import code_digest, lookup
from lth_trainable.schedules import SCHEDULES, Prune, Schedule, ScheduleRule, exact

CONTROLS = ("none", "dense")
LAYERS = ("auto", "conv", "linear", "all")
OPTIMIZERS = ("adam", "sgd")
RETRAINS = ("weight_rewinding", "tutorial", "none")
RUNG_TOLERANCE = Fraction(1, 10_000)  # a rung counts as reached when its density is within this of the target's


def _choice(default: str, names: tuple[str, ...] | Mapping[str, Any], text: str) -> Any:
    return field(default=default, metadata={"help": f"{text}: {', '.join(names)}", "names": names})


def _help(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


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
    lr: float = _help(1.2e-3, "learning rate, constant")
    momentum: float = _help(0.9, "momentum (adam: beta1)")
    beta2: float | None = _help(0.999, "adam's second decay rate")
    eps: float | None = _help(1e-8, "adam's epsilon")
    weight_decay: float = _help(0.0, "weight decay; decoupled (adam), L2 (sgd)")
    precision: str = _choice("fp32", ("fp32",), "arithmetic")
    epochs: int = _help(20, "epochs a level (imp, omp), or of the whole fit (other schedules, dense)")
    seed: int = _help(0, "the replicate: initialisation, data order and everything else random")
    order_seed: int | None = _help(None, "data order of another seed; None: the trial's own")
    control: str = _choice("none", CONTROLS, "none: a ticket; dense: the baseline it is compared with")
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
    rewind_epoch: int | None = _help(0, "epoch whose weights a ticket is rewound to; 0: initialisation")
    reset_end: bool = _help(False, "end with the rewind weights under the final mask (a supermask), untrained")

    notes: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        self._check_common()
        if self.control == "dense":
            self._drop(*_SPARSE_FIELDS)
            self._set("reset_end", False)
        else:
            self._check_sparse()

    # -- derived -----------------------------------------------------------------------------------------------------

    @property
    def is_dense(self) -> bool:
        return self.control == "dense"

    @property
    def family(self) -> str:
        """ "levels" (one fit a level), "fit" (prunes within one fit) or "dense"."""
        return "dense" if self.schedule is None else self.rule.family

    @property
    def rule(self) -> ScheduleRule:
        """What is known of the trial's schedule; a plugged-in function is a gradual schedule within one fit."""
        found = lookup("schedule", str(self.schedule), SCHEDULES)
        return found if isinstance(found, ScheduleRule) else ScheduleRule(function=found)

    @property
    def level_sparsities(self) -> tuple[Fraction, ...]:
        """Exact sparsity (fraction) in force at each level 1, 2, ...; empty for a dense trial."""
        if self.schedule is None:
            return ()
        if self.schedule == "imp":
            return tuple(
                1 - (1 - _fraction(self.prune_rate_pct)) ** level for level in range(1, self._imp_levels() + 1)
            )
        if self.schedule == "omp":
            return (_fraction(self.target_sparsity_pct),)
        return tuple(prune.sparsity for prune in self.prunes)

    @property
    def prunes(self) -> tuple[Prune, ...]:
        """Prune events of a within-fit schedule; empty for the other families."""
        if self.family != "fit":
            return ()
        return self.make_schedule().prunes(self.epochs, _fraction(self.target_sparsity_pct))

    def make_schedule(self) -> Schedule:
        """The `Schedule` of a within-fit trial."""
        function = self.rule.function
        assert function is not None, f"{self.schedule} prunes between fits"
        if self.schedule == "iterative":
            function = functools.partial(function, n_steps=self.prune_steps)
        return Schedule(function, self.start_pct, self.end_pct)

    @property
    def epochs_alone(self) -> int:
        """Epochs that this trial trains when nothing is shared: T + L (T - k) for levels, else the fit's epochs."""
        if self.family != "levels":
            return self.epochs
        assert self.rewind_epoch is not None
        return self.epochs + len(self.level_sparsities) * (self.epochs - self.rewind_epoch)

    @property
    def name(self) -> str:
        """Readable and unique: the coordinates of the trial, then every other field that is not at its default."""
        return trial_name(self)

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

    # -- validation --------------------------------------------------------------------------------------------------

    def _check_common(self) -> None:
        lookup("dataset", self.dataset, DATASETS)
        lookup("model", self.model, MODELS)
        self._check_choice("layers", LAYERS)
        self._check_choice("optimizer", OPTIMIZERS)
        self._check_choice("precision", ("fp32",))
        self._check_choice("control", CONTROLS)
        self._number("lr", lambda v: v > 0, "a positive learning rate")
        self._number("weight_decay", lambda v: v >= 0, "a number of at least 0")
        self._number("momentum", lambda v: 0 <= v < 1, "a number in [0, 1)")
        if self.optimizer == "adam":
            self._number("beta2", lambda v: 0 <= v < 1, "a number in [0, 1)")
            self._number("eps", lambda v: v > 0, "a positive number")
        else:
            self._drop("beta2", "eps")
        self._integer("epochs", 1)
        self._integer("batch_size", 1)
        self._integer("seed", 0)
        self._integer("split_seed", 0)
        for name, valid, expected in _OPTIONAL:
            if getattr(self, name) is not None:
                self._number(name, valid, expected)
        if self.prune_steps is not None:
            self._integer("prune_steps", 1)
        if self.order_seed is not None:
            self._integer("order_seed", 0)
            if self.order_seed == self.seed:
                self._drop("order_seed")

    def _check_sparse(self) -> None:
        check_sparsity("sparsity", self.target_sparsity_pct)
        self._number("target_sparsity_pct", lambda v: 0 < v < 100, "per cent")
        lookup("criterion", str(self.criterion), CRITERIA)
        self._check_choice("granularity", GRANULARITIES)
        self._check_choice("context", CONTEXTS)
        (self._check_levels if self.family == "levels" else self._check_fit)()

    def _check_levels(self) -> None:
        self._drop("start_pct", "end_pct", "prune_steps")
        self._set_retrain(("weight_rewinding",), "weight_rewinding")
        if self.schedule == "imp":
            check_sparsity("prune_rate", self.prune_rate_pct)
            self._number("prune_rate_pct", lambda v: 0 < v < 100, "per cent")
            self._snap_to_rung()
        else:
            self._drop("prune_rate_pct")
        self._check_rewind(self.epochs, "the first prune, at the end of the level's epochs")
        if self.rewind_epoch == self.epochs:
            raise bad_value(
                "rewind_epoch",
                self.rewind_epoch,
                f"less than epochs ({self.epochs})",
                "no epoch would be left to retrain",
            )

    def _check_fit(self) -> None:
        self._drop("prune_rate_pct")
        rule = self.rule
        if self.schedule == "iterative":
            self._integer("prune_steps", 1)
        else:
            self._drop("prune_steps")
        schedule = self.make_schedule()
        self._set("start_pct", float(schedule.start_pct))
        self._set("end_pct", float(schedule.end_pct))
        self._set_retrain(("tutorial", "none") if rule.stepwise else ("none",), "tutorial" if rule.stepwise else "none")
        first = self.prunes[0].epoch
        if self.retrain == "none" and not self.reset_end:
            self._drop("rewind_epoch")
        else:
            self._check_rewind(first, "the first prune")

    def _check_rewind(self, first_prune: int, event: str) -> None:
        if isinstance(self.rewind_epoch, bool) or not isinstance(self.rewind_epoch, int) or self.rewind_epoch < 0:
            raise bad_value("rewind_epoch", self.rewind_epoch, "a whole epoch number, 0 or more (0: initialisation)")
        if self.rewind_epoch > first_prune:
            raise bad_value(
                "rewind_epoch",
                self.rewind_epoch,
                f"an epoch up to {event} of schedule {self.schedule} (epoch {first_prune})",
                "weights can only be rewound to an epoch that the dense network has trained",
            )

    def _set_retrain(self, valid: tuple[str, ...], default: str) -> None:
        if self.retrain == "auto":
            self._set("retrain", default)
        if self.retrain not in valid:
            raise bad_value("retrain", self.retrain, f"{' or '.join(valid)} with schedule {self.schedule}")

    def _imp_levels(self) -> int:
        """L, the smallest integer with (1-p)^L <= 1 - s + 1e-4."""
        keep, floor = 1 - _fraction(self.prune_rate_pct), 1 - _fraction(self.target_sparsity_pct) + RUNG_TOLERANCE
        levels, density = 1, keep
        while density > floor:
            levels, density = levels + 1, density * keep
        return levels

    def _snap_to_rung(self) -> None:
        asked = _fraction(self.target_sparsity_pct)
        rung = self.level_sparsities[-1]
        snapped = float(round(rung * 100, 2))
        if abs(rung - asked) > RUNG_TOLERANCE:
            self._note(
                f"sparsity {self.target_sparsity_pct:g} % is between rungs of {self.prune_rate_pct:g} % a level; "
                f"taken as the next rung, {snapped:g} % (level {self._imp_levels()})"
            )
        self._set("target_sparsity_pct", snapped)

    def _check_choice(self, name: str, valid: Any) -> None:
        if getattr(self, name) not in valid:
            raise unknown_name(name, getattr(self, name), valid)

    def _integer(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise bad_value(name, value, f"a whole number of at least {least}")

    def _number(self, name: str, valid: Callable[[float], bool], expected: str) -> None:
        value = getattr(self, name)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or not valid(value)
        ):
            raise bad_value(name, value, expected)
        self._set(name, float(value))

    def _note(self, text: str) -> None:
        self._set("notes", (*self.notes, text))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _drop(self, *names: str) -> None:
        for name in names:
            self._set(name, None)


_SPARSE_FIELDS = (
    "target_sparsity_pct", "granularity", "context", "criterion", "schedule", "prune_rate_pct", "prune_steps",
    "start_pct", "end_pct", "retrain", "rewind_epoch",
)  # fmt: skip


_OPTIONAL: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("start_pct", lambda v: 0 <= v < 1, "a part of the fit in [0, 1), such as 0.25"),
    ("end_pct", lambda v: 0 <= v <= 1, "a part of the fit in [0, 1]"),
)  # checked also where they do not act, so that a mistake is not passed over


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


def digest(content: Any) -> str:
    """SHA-256 (hex) of canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def spec_from_dict(content: Mapping[str, Any]) -> TrialSpec:
    """The spec of a record. Raises `UserError` for fields that this version does not know."""
    names = {f.name for f in fields(TrialSpec)}
    unknown = sorted(set(content) - names)
    if unknown:
        raise UserError(f"trial spec: unknown fields {', '.join(unknown)}; it was written by a newer version")
    return TrialSpec(**content)


def _fraction(per_cent: float | None) -> Fraction:
    assert per_cent is not None
    return exact(per_cent) / 100
