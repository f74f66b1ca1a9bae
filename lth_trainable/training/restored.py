"""A trial that goes on from the checkpoint of another trial with other settings, as population-based training does.

It is no ordinary trial: what it has trained does not follow from its own fields. So its states have keys of their own,
its record says what it was restored from, and its name and key are no ordinary trial's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lth_trainable.errors import UserError, bad_value
from lth_trainable.spec.segments import Segment
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.values import digest

# Fields that act only from here on. All others have acted before, or decide what has to be trained at all.
MAY_CHANGE = (
    "lr", "momentum", "beta2", "eps", "weight_decay", "augment", "lr_policy", "warmup_pct", "lr_drops",
    "lr_drop_factor", "criterion", "target_sparsity_pct",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Restored:
    """Where a trial goes on.

    trial: name of the one that the checkpoint is of. chain: its segments up to the checkpoint. lineage: SHA-256 (hex)
    of what was restored; the keys of everything that is trained from there on depend on it. epochs: rows until there.
    """

    trial: str
    chain: tuple[Segment, ...]
    lineage: str
    epochs: int

    @property
    def state(self) -> str:
        """Key of the state to go on from."""
        return self.chain[-1].key

    def key_of(self, key: str) -> str:
        """The trial's key. key: of the ordinary trial with its fields."""
        return digest({"restored": self.lineage, "key": key})

    def about(self) -> dict[str, Any]:
        """What a record says of it."""
        return {
            "from": self.trial, "state": self.state, "level": self.chain[-1].level, "epochs": self.epochs,
            "lineage": self.lineage,
        }  # fmt: skip

    def chain_of(self, ordinary: Sequence[Segment]) -> tuple[Segment, ...]:
        """The trial's segments: those of the checkpoint, then its own with keys of their own.

        ordinary: the segments of the trial if it were not restored. Raises `UserError` if they do not go on from there.
        """
        n = len(self.chain)
        for here, there in zip(self.chain, ordinary, strict=False):
            if _place(here) != _place(there):
                raise self._refusal("it would have pruned or rewound elsewhere before")
        if len(ordinary) <= n:
            raise self._refusal("nothing is left to train")
        return (*self.chain, *(self._own(segment) for segment in ordinary[n:]))

    def check(self, spec: TrialSpec, before: TrialSpec) -> None:
        """Raise `UserError` unless the fields of `spec` that differ from the checkpoint's act only from here on."""
        new, old = spec.canonical(), before.canonical()
        changed = {name for name in new.keys() | old.keys() if new.get(name) != old.get(name)}
        for name in sorted(changed - set(MAY_CHANGE)):
            raise bad_value(
                f"restored from {self.trial}: {name}", new.get(name), repr(old.get(name)),
                f"after a restore only these may change: {', '.join(MAY_CHANGE)}",
            )  # fmt: skip

    def _own(self, segment: Segment) -> Segment:
        if not segment.line:
            return replace(segment, key=digest({"restored": self.lineage, "key": segment.key}))
        own = replace(segment, line=digest({"restored": self.lineage, "line": segment.line}))
        return replace(own, key=own.key_at(segment.end))

    def _refusal(self, why: str) -> UserError:
        return UserError(
            f"restored from {self.trial}: found a config that cannot go on from level {self.chain[-1].level} ({why}); "
            "expected one with the same levels until there and more after it; start it without a checkpoint"
        )


def _place(segment: Segment) -> tuple[Any, ...]:
    return segment.kind, segment.level, segment.start, segment.end, segment.sparsity, segment.output_sparsity
