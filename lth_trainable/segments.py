"""A spec as segments: initialise, train, prune, rewind, each ending in a state with a key. Pure; no torch.

A state key is a hash of the parent's key, the effective range of epochs, and only what acts in the segment, so two
trials share training up to a boundary iff their keys are equal there. `docs/design.md` has the table of what enters a
key when. Train segments are keyed from the last state that was not reached by training, so that a range of epochs
has one key however it is cut up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lth_trainable.spec import TrialSpec, digest


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One step of a trial's life.

    kind: "init", "train", "prune", "rewind" or "reset_end". level: prune events so far, this one included.
    start, end: the epochs [start, end) trained, as positions on the LR and data-order clock; start == end where nothing
    trains. sparsity: the exact fraction in force after the segment. key: the state it ends in.
    """

    kind: str
    level: int
    start: int
    end: int
    sparsity: Fraction
    key: str

    @property
    def epochs(self) -> int:
        return self.end - self.start


def segments(spec: TrialSpec, data_digest: str) -> tuple[Segment, ...]:
    """The whole life of a trial, in order.

    Levels: init, train to k, train to T, then per level prune, rewind to k, train to T. Within a fit: init, train to
    the first prune (cut at k), then per event prune, rewind, train to the next. Dense: init, train.
    """
    chain = _Chain(spec, data_digest)
    chain.root()
    if spec.family == "levels":
        _levels(chain, spec)
    elif spec.family == "fit":
        _within_fit(chain, spec)
    else:
        chain.train_to(spec.epochs)
    if spec.reset_end:
        chain.event("reset_end", {"rewind_epoch": spec.rewind_epoch}, at=spec.epochs)
    return tuple(chain.segments)


def state_at(chain: Iterable[Segment], epoch: int) -> str:
    """Key of the dense state at an epoch boundary of level 0: what a rewind returns to."""
    return next(s.key for s in chain if s.level == 0 and s.kind in ("init", "train") and s.end == epoch)


def _levels(chain: _Chain, spec: TrialSpec) -> None:
    k = spec.rewind_epoch or 0
    if k:
        chain.train_to(k)
    chain.train_to(spec.epochs)
    for sparsity in spec.level_sparsities:
        chain.prune(sparsity)
        chain.event("rewind", {"mode": spec.retrain, "to": k}, at=k)
        chain.train_to(spec.epochs)


def _within_fit(chain: _Chain, spec: TrialSpec) -> None:
    events = spec.prunes
    k = spec.rewind_epoch
    if k and k < events[0].epoch:
        chain.train_to(k)
    for event in events:
        chain.train_to(event.epoch)
        chain.prune(event.sparsity)
        if spec.retrain == "tutorial":
            chain.event("rewind", {"mode": "tutorial", "to": k}, at=event.epoch)
    chain.train_to(spec.epochs)


class _Chain:
    """The segments so far, and the keys that the next one hangs on."""

    def __init__(self, spec: TrialSpec, data_digest: str) -> None:
        self.spec, self.data_digest = spec, data_digest
        self.segments: list[Segment] = []
        self.level, self.position, self.sparsity = 0, 0, Fraction(0)
        self.base, self.base_epoch = "", 0  # last state not reached by training, and the epoch it stands at

    def root(self) -> None:
        code = self.spec.code_digests()
        self.event("init", {
            "data": self.data_digest, "split_seed": self.spec.split_seed, "model": self.spec.model,
            "code": {name: code[name] for name in ("dataset", "model") if name in code},
            "seed": self.spec.seed, "precision": self.spec.precision,
        })  # fmt: skip

    def train_to(self, epoch: int) -> None:
        if epoch == self.position:
            return
        acts = {
            "parent": self.base, "from": self.base_epoch, "to": epoch,
            **{name: getattr(self.spec, name) for name in _TRAIN_FIELDS},
        }  # fmt: skip
        self._add("train", self.position, epoch, digest({"train": acts}))
        self.position = epoch

    def prune(self, sparsity: Fraction) -> None:
        self.level, self.sparsity = self.level + 1, sparsity
        code = self.spec.code_digests()
        self.event("prune", {
            "sparsity": str(sparsity), "criterion": self.spec.criterion, "granularity": self.spec.granularity,
            "context": self.spec.context, "layers": self.spec.layers, "code": code.get("criterion"),
        })  # fmt: skip

    def event(self, kind: str, acts: dict[str, Any], at: int | None = None) -> None:
        """A segment without training; `at` moves the clock (a rewind)."""
        self.position = self.position if at is None else at
        parent = self.segments[-1].key if self.segments else None
        self._add(kind, self.position, self.position, digest({kind: acts, "parent": parent}))
        self.base, self.base_epoch = self.segments[-1].key, self.position

    def _add(self, kind: str, start: int, end: int, key: str) -> None:
        self.segments.append(
            Segment(kind=kind, level=self.level, start=start, end=end, sparsity=self.sparsity, key=key)
        )


_TRAIN_FIELDS = ("batch_size", "optimizer", "lr", "momentum", "beta2", "eps", "weight_decay", "order_seed")
