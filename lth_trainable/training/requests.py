"""What a member of a cohort asks its conductor for. learn: the member's learner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from lth_trainable.pruning.masks_together import Ranking
from lth_trainable.stacking.marks import AtMark
from lth_trainable.stacking.run import Run


@dataclass(kw_only=True)
class Training:
    """Asks for batches to be trained. learn: the member's. run: what is left of them. factors: of its masks.

    meanwhile: work of the member's that can be done while the device trains; it may be called several times, or never.
    losses: of each batch, so far. at_marks: what was found at the marks of the run, so far. kept: the tensors of the
    network at the last mark whose weights were kept, when all batches have been trained.
    """

    learn: Any
    run: Run
    factors: dict[str, torch.Tensor]
    meanwhile: Callable[[], None]
    losses: list[torch.Tensor] = field(default_factory=list)
    at_marks: list[AtMark] = field(default_factory=list)
    kept: dict[str, torch.Tensor] | None = None
    draws: ClassVar = False

    @property
    def is_served(self) -> bool:
        return not self.run.sizes

    @property
    def keeps(self) -> bool:
        """Whether the weights at some mark were kept."""
        return any(mark.is_kept for mark in self.at_marks)

    def take(self, losses: torch.Tensor, at_marks: Sequence[AtMark], rest: Run) -> None:
        """Note what was found in the first batches. rest: the others."""
        self.losses.append(losses)
        self.at_marks.extend(at_marks)
        lowest = [mark.loss / self.learn.dls.valid.n for mark in at_marks if mark.is_kept]
        self.run = replace(rest, lowest=lowest[-1]) if lowest else rest


@dataclass(kw_only=True)
class Measuring:
    """Asks for the results of the network on a loader's images. found: sums, and which images are right.

    draws: whether the member itself draws random numbers later in the same batch.
    """

    learn: Any
    loader: Any
    draws: bool = False
    found: Any = None


@dataclass(kw_only=True)
class Pruning:
    """Asks for the mask that keeps the highest scores. found: the mask; None: the member is to find it itself."""

    learn: Any
    ranking: Ranking
    found: torch.Tensor | None = None
    draws: ClassVar = False


@dataclass(kw_only=True)
class Pausing:
    """Asks for nothing: a member that makes its own steps lets the others, and reports, have their turn."""

    learn: Any
    draws: ClassVar = False


Request = Training | Measuring | Pruning | Pausing
