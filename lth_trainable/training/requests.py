"""What a member of a cohort asks its conductor for. learn: the member's learner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from lth_trainable.stacking.run import Run


@dataclass(kw_only=True)
class Training:
    """Asks for batches to be trained. learn: the member's. factors: of its masks. losses: of each batch, so far.

    then: what to measure after the last of them, if the member would ask for that next.
    """

    learn: Any
    run: Run
    factors: dict[str, torch.Tensor]
    losses: list[torch.Tensor] = field(default_factory=list)
    then: Measuring | None = None
    draws: ClassVar = False

    @property
    def is_served(self) -> bool:
        return not self.run.sizes


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
class Pausing:
    """Asks for nothing: a member that makes its own steps lets the others, and reports, have their turn."""

    learn: Any
    draws: ClassVar = False


Request = Training | Measuring | Pausing
