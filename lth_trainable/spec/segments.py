"""A trial as a chain of segments: initialise, train, prune, rewind, control. Pure; needs no torch.

Each segment ends in a state with a key: a hash of the key before it, the epochs trained, and only those settings that
have an effect in the segment. Two trials can share training up to a point if and only if their keys are equal there.
`docs/design.md` has the table of what enters a key, and when. Training between two other events is a *line*. The key of
an epoch on a line depends only on the state at the start of the line, so it is the same wherever the line is cut.
"""

from __future__ import annotations

import functools
import hashlib
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from lth_trainable.errors import bad_value
from lth_trainable.spec.rewind_point import INITIALISATION
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.values import OF_CONTROLS, canonical_json, digest


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One step in the life of a trial.

    kind: "init", "train", "prune", "given" (the mask of an imported ticket, in place of a prune), "restart" (an
    all-ones mask where the ticket prunes), "rewind", "control" (in place of the ticket's last rewind, or of its
    reset_end) or "reset_end".
    level: number of prune events so far, including this one.
    start, end: the epochs [start, end) trained, as positions in the schedules of learning rate and data order. They are
    equal in segments without training. A level that is rewound to an iteration starts within epoch `start`.
    sparsity: the exact fraction after the segment. output_sparsity: that of the output layer, if it has its own.
    key: of the state at the end. line: of a train segment, the hash that the keys of its epochs are made from.
    """

    kind: str
    level: int
    start: int
    end: int
    sparsity: Fraction
    key: str
    output_sparsity: Fraction | None = None
    line: str = ""

    @property
    def epochs(self) -> int:
        return self.end - self.start

    def key_at(self, epoch: int) -> str:
        """Key of the state at the start of `epoch`, on the line of a train segment."""
        return _on_line(self.line, epoch)


def segments(spec: TrialSpec, data_digest: str, steps_per_epoch: int | None = None) -> tuple[Segment, ...]:
    """All segments of a trial, in order.

    * levels: init, train to k, train to T; then for each level prune, rewind to k, train to T;
    * within a fit: init, train to the first prune (cut at k); then for each event prune, rewind, train to the next;
    * dense: init, train;
    * an imported ticket: init with its weights, given, rewind to these weights, train.

    A control has the segments of its ticket, with "control" in place of the last "rewind", or of a supermask's
    "reset_end".

    steps_per_epoch: needed if the spec rewinds to an iteration. Raises `UserError` if no iteration would be left then.
    """
    chain = _Chain(spec, data_digest)
    if spec.family != "levels":
        chain.root()
    if spec.family == "levels":
        _levels(chain, spec, steps_per_epoch)
    elif spec.family == "fit":
        _within_fit(chain, spec)
    elif spec.family == "imported":
        _imported(chain, spec)
    else:
        chain.train_to(spec.epochs)
    if spec.reset_end and spec.control == "none":
        chain.event("reset_end", at=spec.epochs, rewind=_rewind_target(spec))
    elif spec.reset_end:
        chain.event("control", at=spec.epochs, name=spec.control, to=_rewind_target(spec), **_of_control(spec))
    return tuple(chain.segments)


def rewind_key(spec: TrialSpec, chain: Sequence[Segment]) -> str | None:
    """Key of the state that the trial, or its ticket, is rewound to; None if there is no rewind."""
    returns = {"rewind", "reset_end"} if spec.starts_over else {"rewind", "reset_end", "control"}
    within_fit = spec.family == "fit"  # here the last reset takes place even if a new initialisation follows it
    if not spec.rewinds or not (within_fit or any(segment.kind in returns for segment in chain)):
        return None
    point = spec.rewind_point or INITIALISATION
    return state_at(chain, point.epoch) if point.epoch is not None else _on_line(_trunk(chain).line, point.value)


def recorded_keys(spec: TrialSpec, chain: Sequence[Segment]) -> dict[str, str]:
    """Keys of the states that the record of a trial refers to: initial, final and, if it was rewound, rewind.

    The initial state of a control that starts over is its new initialisation. All such controls of a network share it.
    """
    if spec.starts_over:
        return {"initial": _event("control-init", chain[0].key, ()), "final": chain[-1].key}
    rewind = rewind_key(spec, chain)
    return {"initial": chain[0].key, "final": chain[-1].key, **({"rewind": rewind} if rewind is not None else {})}


def needs_optimizer(spec: TrialSpec, segment: Segment, epoch: int) -> bool:
    """Whether training may go on with the optimiser of the state at this epoch of a train segment.

    This is about every trial that has the state on its chain, also those of later commands. So all of them give the
    same answer. No trial needs it at the end of a level that was pruned, if the next level takes its optimiser from the
    rewind point or has a new one, or if the level is a control's own; nor at the end of one fit whose learning rate
    depends on the number of epochs, once the network is pruned.
    """
    if epoch < spec.epochs or segment.level == 0:
        return True
    if spec.family == "levels":
        is_of_control = spec.acts_at_prune and segment.level == len(spec.level_sparsities)
        return spec.retrain == "fine_tuning" and not is_of_control
    return spec.family != "fit" or spec.lr_policy == "constant"


def state_at(chain: Iterable[Segment], epoch: int) -> str:
    """Key of the dense state at the start of an epoch, before the first prune."""
    return next(s.key for s in chain if s.level == 0 and s.kind in ("init", "train") and s.end == epoch)


def _trunk(chain: Iterable[Segment]) -> Segment:
    return next(s for s in chain if s.kind == "train")


def _levels(chain: _Chain, spec: TrialSpec, steps_per_epoch: int | None) -> None:
    if spec.rewind_step is not None:
        assert steps_per_epoch is not None, "a rewind to an iteration needs the number of iterations in an epoch"
        if spec.rewind_step >= spec.epochs * steps_per_epoch:
            raise bad_value(
                "rewind_epoch", str(spec.rewind_point),
                f"less than {spec.epochs * steps_per_epoch}it ({spec.epochs} epochs of {steps_per_epoch} iterations)",
                "no iteration would be left to retrain",
            )  # fmt: skip
    k = (spec.rewind_point or INITIALISATION).epoch_at(steps_per_epoch)
    levels = tuple(zip(spec.level_sparsities, spec.output_sparsities, strict=True))
    own = levels[:-1] if spec.acts_at_prune else levels  # up to there a control is its ticket
    _climb(chain, spec, k, own)
    if spec.acts_at_prune:
        chain.prune(*levels[-1])
        _control(chain, spec, k)
        chain.train_to(spec.epochs)


def _climb(chain: _Chain, spec: TrialSpec, k: int, levels: Sequence[tuple[Fraction, Fraction | None]]) -> None:
    """Start with the dense training and these levels of a ticket; what another ticket had too is not made again."""
    acts = _of_ladder(spec), None if spec.schedule == "imp" else spec.target_sparsity_pct, spec.restarts
    ladder = _ladder(chain.data_digest, tuple(chain.code.items()), k, *acts)
    segments, ends, climbed = ladder.known
    known = min(_in_common(levels, climbed) + 1, len(ends))
    if known:
        chain.go_on_from(segments[: ends[known - 1]], spec.epochs)
    else:
        chain.root()
        if spec.rewind_epoch:
            chain.train_to(k)
        chain.train_to(spec.epochs)
        ends = (len(chain.segments),)
    for sparsity, output in levels[max(1, known) - 1 :]:
        chain.prune(sparsity, output)
        chain.event(
            "rewind", at=k, mode=spec.retrain, to=_rewind_target(spec), optimizer=spec.rewind_optimizer,
            **_retraining(spec),
        )  # fmt: skip
        chain.train_to(spec.epochs)
        ends = (*ends, len(chain.segments))
    if known == len(ladder.known[1]) < len(ends):
        ladder.known = tuple(chain.segments), ends, tuple(levels)


def _in_common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """With how many equal elements both begin. Fractions compare slowly, but the same object is equal at once."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(i for i in range(shorter) if one[i] != other[i])


def _control(chain: _Chain, spec: TrialSpec, k: int) -> None:
    if spec.starts_over:  # the rewind point of the ticket has no effect any more
        order = "level" if spec.order_is_new else "dense"
        chain.event("control", at=0, name=spec.control, order=order, **_of_control(spec))
    else:
        chain.event(
            "control", at=k, name=spec.control, to=_rewind_target(spec), optimizer=spec.rewind_optimizer,
            **_retraining(spec), **_of_control(spec),
        )  # fmt: skip


def _retraining(spec: TrialSpec) -> dict[str, Any]:
    """The settings of the training after a prune that are not the usual ones."""
    found = {"fraction": spec.fine_tuning_lr_fraction, "order": spec.retrain_order}
    return {name: value for name, value in found.items() if value is not None}


def _of_control(spec: TrialSpec) -> dict[str, Any]:
    """The settings of a control that is not the usual one of its name."""
    return {name: getattr(spec, name) for name in OF_CONTROLS if getattr(spec, name) is not None}


def _within_fit(chain: _Chain, spec: TrialSpec) -> None:
    events = spec.prunes
    k = spec.rewind_epoch
    if k and k < events[0].epoch:
        chain.train_to(k)
    for event in events:
        chain.train_to(event.epoch)
        chain.prune(event.sparsity)
        if spec.acts_at_prune and event is events[-1]:
            to = None if spec.starts_over else _rewind_target(spec)
            chain.event("control", at=event.epoch, name=spec.control, within="fit", to=to, **_of_control(spec))
        elif spec.retrain == "tutorial":
            chain.event("rewind", at=event.epoch, mode="tutorial", to=_rewind_target(spec))
    chain.train_to(spec.epochs)


def _imported(chain: _Chain, spec: TrialSpec) -> None:
    chain.apply_imported_mask()
    if spec.acts_at_prune:
        _control(chain, spec, spec.start_epoch)
    else:
        chain.event("rewind", at=spec.start_epoch, mode=spec.retrain, to=_rewind_target(spec), optimizer=None)
    chain.train_to(spec.epochs)


def _rewind_target(spec: TrialSpec) -> int | str | None:
    """The rewind point in the form that is hashed into keys."""
    return spec.rewind_point.value if spec.rewind_point is not None else None


class _Chain:
    """The segments so far, and what the key of the next one depends on."""

    def __init__(self, spec: TrialSpec, data_digest: str) -> None:
        self.spec, self.data_digest = spec, data_digest
        self.code = spec.code_digests()
        self.segments: list[Segment] = []
        self.level, self.position, self.sparsity = 0, spec.start_epoch, Fraction(0)
        self.output: Fraction | None = None
        self.base = ""  # key of the last state not reached by training
        self.line: str | None = None  # hash of the training since then

    def root(self) -> None:
        more: dict[str, Any] = {f"{name}_code": self.code[name] for name in ("dataset", "model") if name in self.code}
        more |= {"width_pct": self.spec.width_pct} if self.spec.width_pct is not None else {}
        more |= {"ticket": self.spec.ticket} if self.spec.starts_from_imported else {}
        self.event(
            "init", data=self.data_digest, split_seed=self.spec.split_seed, model=self.spec.model, seed=self.spec.seed,
            precision=self.spec.precision, **more,
        )  # fmt: skip

    def go_on_from(self, segments: Sequence[Segment], position: int) -> None:
        """Take these segments, of a chain that is the same up to there, in place of its own."""
        last = segments[-1]
        self.segments, self.position = list(segments), position
        self.level, self.sparsity, self.output = last.level, last.sparsity, last.output_sparsity
        self.base, self.line = last.key, None  # an event comes next

    def train_to(self, epoch: int) -> None:
        if self.line is None:
            self.line = _line(self.base, self.position, _training(self.spec))
        if epoch > self.position:
            self._add("train", self.position, epoch, _on_line(self.line, epoch), self.line)
            self.position = epoch

    def prune(self, sparsity: Fraction, output: Fraction | None = None) -> None:
        self.level, self.sparsity, self.output = self.level + 1, sparsity, output
        if self.spec.restarts:
            self.event("restart")
            return
        self.event(
            "prune", sparsity=str(sparsity), output=None if output is None else str(output),
            criterion=self.spec.criterion, granularity=self.spec.granularity, context=self.spec.context,
            layers=self.spec.layers, code=self.code.get("criterion"),
        )  # fmt: skip

    def apply_imported_mask(self) -> None:
        """Add the mask of the imported ticket, in place of the first prune."""
        self.level, self.sparsity = 1, self.spec.level_sparsities[0]
        self.event("given", ticket=self.spec.ticket, layers=self.spec.layers)

    def event(self, kind: str, at: int | None = None, **acts: Any) -> None:
        """Add a segment without training. at: the epoch that a rewind goes back to; None: no rewind."""
        self.position = self.position if at is None else at
        parent = self.segments[-1].key if self.segments else None
        self.base, self.line = _event(kind, parent, tuple(acts.items())), None
        self._add(kind, self.position, self.position, self.base)

    def _add(self, kind: str, start: int, end: int, key: str, line: str = "") -> None:
        self.segments.append(
            Segment(
                kind=kind,
                level=self.level,
                start=start,
                end=end,
                sparsity=self.sparsity,
                key=key,
                output_sparsity=self.output,
                line=line,
            )
        )


# Cached, since the trials of a grid have many segments in common.


class _Ladder:
    """Segments of tickets that differ only in their number of levels, as far as any of them has been asked for.

    known: the segments, how many of them there are at the end of each level, the dense one first, and the levels'
    sparsities.
    """

    def __init__(self) -> None:
        self.known: tuple[tuple[Segment, ...], tuple[int, ...], tuple[Any, ...]] = (), (), ()


@functools.lru_cache(maxsize=1 << 10)
def _ladder(*_: Any) -> _Ladder:
    """The ladder of tickets that have all these values in common."""
    return _Ladder()


_of_ladder = operator.attrgetter(
    *(f.name for f in fields(TrialSpec) if f.name not in ("control", "target_sparsity_pct"))
)


@functools.lru_cache(maxsize=1 << 16)
def _event(kind: str, parent: str | None, acts: tuple[tuple[str, Any], ...]) -> str:
    before, after = _around_parent(kind, acts)
    return hashlib.sha256(f"{before}{canonical_json(parent)}{after}".encode()).hexdigest()


@functools.lru_cache(maxsize=1 << 14)
def _around_parent(kind: str, acts: tuple[tuple[str, Any], ...]) -> tuple[str, str]:
    """The text whose SHA-256 is the key of an event, before and after its parent: most of it is that of other seeds."""
    before, _, after = canonical_json({kind: dict(acts), "parent": 0.5}).partition('"parent":0.5')
    return f'{before}"parent":', after


@functools.lru_cache(maxsize=1 << 16)
def _line(base: str, start: int, training: tuple[tuple[str, Any], ...]) -> str:
    return digest({"train": dict(training), "parent": base, "from": start})


@functools.lru_cache(maxsize=1 << 16)
def _on_line(line: str, to: int | str) -> str:
    """Key of the state at an epoch of a line, or at an iteration such as "500it"."""
    return hashlib.sha256(f"{line}:{to}".encode()).hexdigest()


def _training(spec: TrialSpec) -> tuple[tuple[str, Any], ...]:
    """The settings that affect training. The number of epochs is one of them only if the learning rate changes."""
    acts: dict[str, Any] = {name: getattr(spec, name) for name in _TRAIN_FIELDS}
    acts |= {name: getattr(spec, name) for name in ("augment",) if getattr(spec, name) != "none"}
    acts |= {name: getattr(spec, name) for name in ("validate_every",) if getattr(spec, name) is not None}
    if spec.lr_policy != "constant":
        acts |= {name: getattr(spec, name) for name in _LR_FIELDS}
    return tuple(acts.items())


_TRAIN_FIELDS = ("batch_size", "optimizer", "lr", "momentum", "beta2", "eps", "weight_decay", "order_seed")
_LR_FIELDS = ("lr_policy", "warmup_pct", "lr_drops", "lr_drop_factor", "epochs")
