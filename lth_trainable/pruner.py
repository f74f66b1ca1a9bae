"""The masks of a model: which layers have one, how they are found, and that they hold."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lth_trainable.criteria import Criterion, Weights
from lth_trainable.errors import UserError
from lth_trainable.masks import Mask, prune
from lth_trainable.seeds import generator

CONVOLUTIONS: tuple[type[nn.Module], ...] = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
LAYER_TYPES: dict[str, tuple[type[nn.Module], ...] | None] = {
    "auto": None,
    "conv": CONVOLUTIONS,
    "linear": (nn.Linear,),
    "all": (*CONVOLUTIONS, nn.Linear),
}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One prunable weight: the module's name and type, the parameter's name and the parameter."""

    name: str
    type: str
    parameter_name: str
    weight: nn.Parameter


def prunable_layers(model: nn.Module, layer_type: type | tuple[type, ...] | None = None) -> list[Layer]:
    """Layers whose `weight` is pruned, in the order of the model: those of `layer_type`, by default all convolutions,
    or all linear layers where there are no convolutions. A weight shared by two layers counts once.

    Raises `UserError` where there is none.
    """
    modules = dict(model.named_modules())
    types: Any = layer_type or (
        CONVOLUTIONS if any(isinstance(m, CONVOLUTIONS) for m in modules.values()) else (nn.Linear,)
    )
    layers: dict[int, Layer] = {}
    for name, module in modules.items():
        if isinstance(module, types) and isinstance(module.weight, nn.Parameter):
            parameter = f"{name}.weight" if name else "weight"
            layer = Layer(name=name, type=type(module).__name__, parameter_name=parameter, weight=module.weight)
            layers.setdefault(id(module.weight), layer)
    if not layers:
        wanted = types if isinstance(types, tuple) else (types,)
        raise UserError(
            f"{type(model).__name__}: found no layer of type {' or '.join(t.__name__ for t in wanted)} to prune"
        )
    return list(layers.values())


class Pruner:
    """Finds, applies and remembers the masks of one model.

    criterion: see `criteria.py`. seed: of the criterion's noise. `levels` holds the masks (Boolean, by parameter name)
    after each prune; `in_force` those of the last one. `counts_by_level` starts with the dense network.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        *,
        granularity: str = "weight",
        context: str = "local",
        layer_type: type | tuple[type, ...] | None = None,
        seed: int = 0,
    ) -> None:
        self.layers = prunable_layers(model, layer_type)
        self.criterion, self.granularity, self.context, self.seed = criterion, granularity, context, seed
        self.levels: list[dict[str, Mask]] = []
        self.counts_by_level = [{layer.parameter_name: layer.weight.numel() for layer in self.layers}]
        self._initial = [layer.weight.detach().clone() for layer in self.layers]
        self._previous = self._initial
        self._factors: list[Tensor] = []

    @property
    def counts(self) -> dict[str, int]:
        """Weights kept by the mask in force, by parameter name."""
        return self.counts_by_level[-1]

    @property
    def in_force(self) -> dict[str, Mask] | None:
        return self.levels[-1] if self.levels else None

    @property
    def n_weights(self) -> int:
        return sum(layer.weight.numel() for layer in self.layers)

    @property
    def n_kept(self) -> int:
        """Weights that the mask in force keeps."""
        return sum(self.counts.values())

    @property
    def sparsity_pct(self) -> float:
        """Measured from the mask in force, not from any schedule."""
        return 100 * (self.n_weights - self.n_kept) / self.n_weights

    @property
    def collapsed(self) -> list[str]:
        """Layers without a weight left."""
        return [layer.name for layer in self.layers if self.counts[layer.parameter_name] == 0]

    @torch.no_grad()
    def prune(self, sparsity: Fraction) -> None:
        """Bring the model to `sparsity` (fraction) and apply the new mask. Masks only shrink while sparsity rises."""
        masks = prune(
            {layer.parameter_name: self._scores(i) for i, layer in enumerate(self.layers)},
            sparsity,
            granularity=self.granularity,
            context=self.context,
            previous=self.in_force if sparsity * 100 >= Fraction(self.sparsity_pct) else None,
        )
        self.put(masks)
        self._previous = [layer.weight.detach().clone() for layer in self.layers]
        if self.collapsed:
            warnings.warn(
                f"no weight is left in {', '.join(self.collapsed)} at {self.sparsity_pct:.2f} %", stacklevel=2
            )

    def put(self, masks: dict[str, Mask]) -> None:
        """Make `masks` the mask in force, as the next level."""
        self.levels.append(masks)
        self.counts_by_level.append({name: int(np.count_nonzero(mask)) for name, mask in masks.items()})
        self._factors = []
        self.apply()

    def forget(self, n_levels: int) -> None:
        """Go back to the masks of the first `n_levels` prunes; weights stay as they are."""
        del self.levels[n_levels:], self.counts_by_level[n_levels + 1 :]
        self._factors = []

    @torch.no_grad()
    def apply(self) -> None:
        """Set every masked weight to zero."""
        if self.levels:
            torch._foreach_mul_([layer.weight for layer in self.layers], self._as_factors())

    def _as_factors(self) -> list[Tensor]:
        """The mask in force as ones and zeros like the weights, made again when the model has moved."""
        weights = [layer.weight for layer in self.layers]
        stale = any(f.device != w.device or f.dtype != w.dtype for f, w in zip(self._factors, weights, strict=False))
        if stale or not self._factors:
            masks = self.levels[-1]
            self._factors = [
                torch.from_numpy(masks[layer.parameter_name]).to(layer.weight.device, layer.weight.dtype)
                for layer in self.layers
            ]
        return self._factors

    def _scores(self, index: int) -> Any:
        weight = self.layers[index].weight.detach()
        scores = self.criterion(
            Weights(
                now=weight,
                initial=self._initial[index].to(weight),
                previous=self._previous[index].to(weight),
                draw=lambda: self._noise(index, weight),
            )
        )
        return scores.float().cpu().contiguous().numpy()

    def _noise(self, index: int, like: Tensor) -> Tensor:
        stream = generator(self.seed, "criterion", len(self.levels) + 1, index)
        return torch.from_numpy(stream.random(tuple(like.shape), dtype=np.float32)).to(like.device)


def report(pruner: Pruner) -> str:
    """The sparsity report: one row a layer and one for all, zeros counted in the mask in force."""
    rule = "-" * 80
    rows = [
        (layer.name, layer.type, layer.weight.numel(), layer.weight.numel() - pruner.counts[layer.parameter_name])
        for layer in pruner.layers
    ]
    total = ("Overall", "all", pruner.n_weights, pruner.n_weights - pruner.n_kept)
    head = f"{'Layer':<30} {'Type':<15} {'Params':<10} {'Zeros':<10} {'Sparsity':<10}"
    return "\n".join(["Sparsity Report:", rule, head, rule, *map(_row, rows), rule, _row(total)])


def _row(row: tuple[str, str, int, int]) -> str:
    name, kind, n, zeros = row
    return f"{name:<30} {kind:<15} {n:<10,} {zeros:<10,} {100 * zeros / n:>8.2f}%"
