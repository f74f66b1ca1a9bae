"""Which of all weights of a network are pruned, which are not, and why. No parameter is left unsaid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lth_trainable.pruning.layers import Layer, LayerType, Selection, left_out, named_modules
from lth_trainable.pruning.unprunable import SHARED, SMALL, why_not

LITTLE_PCT = 50  # a prunable share below this is said
LITTLE = "less than half of the network, and a sparsity counts these alone"


@dataclass(frozen=True, kw_only=True)
class Unpruned:
    """Parameters of one module that are not pruned, for one reason. n: their weights, none counted twice."""

    module: str
    type: str
    names: tuple[str, ...]
    n: int
    reason: str

    def __str__(self) -> str:
        """The layer and the reason; for what is no layer of the usual kinds its weights too."""
        where = f"{self.module or 'the network itself'} ({self.type})"
        if self.names == ("weight",):
            return f"{where}, {self.reason}"
        return f"{where}, {', '.join(self.names)} ({self.n:,} weights): {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """All weights of a network: every parameter, each counted once, biases and norms too."""

    n_all: int
    n_prunable: int
    unpruned: tuple[Unpruned, ...]

    @property
    def prunable_pct(self) -> float:
        return 100 * self.n_prunable / max(1, self.n_all)

    @property
    def is_little(self) -> bool:
        """Whether less than half of all weights can be pruned."""
        return self.prunable_pct < LITTLE_PCT

    def pruned_pct(self, n_kept: int) -> float:
        """Percent of all weights that are pruned. n_kept: prunable weights that are kept."""
        return 100 * (self.n_prunable - n_kept) / max(1, self.n_all)

    def by_reason(self) -> dict[str, int]:
        """Number of weights that are not pruned, by reason, the most first."""
        found: dict[str, int] = {}
        for each in self.unpruned:
            found[each.reason] = found.get(each.reason, 0) + each.n
        return dict(sorted(((why, n) for why, n in found.items() if n), key=lambda item: -item[1]))

    def left_out(self) -> list[str]:
        """For people: what is not pruned and why, a line a module; without biases and norms, which never are."""
        return [f"Left out: {each}" for each in self.unpruned if each.reason != SMALL]

    def shares(self, n_kept: int | None = None) -> list[str]:
        """For people: how much is prunable, and how much is pruned, of all weights. n_kept: prunable weights kept."""
        lines = [f"Prunable: {self._share(self.n_prunable)}" + (f"; {LITTLE}" if self.is_little else "")]
        return lines if n_kept is None else [*lines, f"Pruned: {self._share(self.n_prunable - n_kept)}"]

    def _share(self, n: int) -> str:
        return f"{n:,} of {self.n_all:,} weights ({100 * n / max(1, self.n_all):.2f}%)"


def take_inventory(
    model: nn.Module, pruned: Sequence[Layer], layer_type: LayerType = None, select: Selection = None
) -> Inventory:
    """Count all weights of the model. pruned: the layers that are; layer_type, select: by what they were chosen."""
    chosen = {id(layer.weight): layer.name for layer in pruned}
    reasons = {layer.name: reason for layer, reason in left_out(model, layer_type, select)}
    seen: dict[int, str] = {}
    found: dict[tuple[str, str], Unpruned] = {}
    n_all = 0
    for module_name, module in named_modules(model).items():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            is_again = id(parameter) in seen
            n = 0 if is_again else parameter.numel()
            n_all += n
            first = seen.setdefault(id(parameter), module_name)
            owner = chosen.get(id(parameter))
            if owner == module_name:
                continue
            if owner is not None or is_again:
                reason = f"{SHARED} {first if owner is None else owner}"
            else:
                reason = _reason(module, module_name, name, parameter, reasons)
            before = found.get((module_name, reason))
            found[module_name, reason] = Unpruned(
                module=module_name, type=type(module).__name__, reason=reason,
                names=(*(before.names if before else ()), name),
                n=(before.n if before else 0) + (n if owner is None else 0),
            )  # fmt: skip
    return Inventory(
        n_all=n_all, n_prunable=sum(layer.weight.numel() for layer in pruned), unpruned=tuple(found.values())
    )


def _reason(module: nn.Module, module_name: str, name: str, parameter: nn.Parameter, reasons: dict[str, str]) -> str:
    if name == "weight" and reasons.get(module_name):
        return reasons[module_name]
    reason = why_not(module, name, parameter)
    is_layer = name == "weight" and isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    return "without a target in sparsity" if is_layer else reason
