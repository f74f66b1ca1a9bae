"""Finds the masks of a model, and keeps the masked weights at zero."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lth_trainable.errors import UserError, words_of
from lth_trainable.pruning.calibration import Batches, input_norms
from lth_trainable.pruning.criteria import CRITERIA, Criterion, Weights, name_of, needs_inputs, reads_previous
from lth_trainable.pruning.granularity import group_axes
from lth_trainable.pruning.layers import Layer
from lth_trainable.pruning.masks import Mask, Scores, count_zeros, prune
from lth_trainable.pruning.masks_together import MOST_TOGETHER, Ranker, Ranking
from lth_trainable.seeds import generator
from lth_trainable.streams import all_streams_put_back
from lth_trainable.tensors import multiply

Sparsity = Fraction | Mapping[str, Fraction]  # one, or one by parameter name
_NAMES_OF_0_4 = {"asked": "requested_sparsity", "remembered": "last_scores"}


class MaskedLayers:
    """Layers and their current mask, if any. `apply` sets the masked weights to zero.

    Pickles are small: the factors are made again when they are needed.
    """

    def __init__(self, layers: Sequence[Layer], masks: dict[str, Mask] | None = None) -> None:
        self.layers = list(layers)
        self.in_force: dict[str, Mask] | None = None
        self.counts: dict[str, int] = {layer.parameter_name: layer.weight.numel() for layer in self.layers}
        self._factors: list[Tensor] = []
        if masks is not None:
            self.apply_mask(masks)

    @property
    def n_weights(self) -> int:
        return sum(layer.weight.numel() for layer in self.layers)

    @property
    def n_kept(self) -> int:
        """Number of weights that the current mask keeps."""
        return sum(self.counts.values())

    @property
    def sparsity_pct(self) -> float:
        """Percent of the weights that are masked, counted in the current mask rather than read from a schedule."""
        return 100 * (self.n_weights - self.n_kept) / self.n_weights

    @property
    def collapsed(self) -> list[str]:
        """Names of the layers that have no weight left."""
        return [layer.name for layer in self.layers if self.counts[layer.parameter_name] == 0]

    @property
    def dead_filters(self) -> dict[str, int]:
        """By layer, the filters without a weight left in depthwise convolutions: nothing passes through them."""
        masks = self.in_force or {}
        found = {
            layer.name: int(np.count_nonzero(~masks[layer.parameter_name].any(axis=tuple(range(1, layer.weight.ndim)))))
            for layer in self.layers
            if layer.parameter_name in masks and layer.groups > 1 and layer.weight.shape[1] == 1
        }
        return {name: n for name, n in found.items() if n}

    def set_mask(self, masks: dict[str, Mask]) -> None:
        """Make `masks` the current mask without changing any weight. masks: Boolean by parameter name, True: kept."""
        self.in_force, self._factors = masks, []
        self.counts = {name: int(np.count_nonzero(mask)) for name, mask in masks.items()}

    def apply_mask(self, masks: dict[str, Mask], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Make `masks` the current mask and set the weights that it removes to zero.

        tensors: the same masks on the device of the weights, if they are there already.
        """
        self.set_mask(masks)
        if tensors is not None:
            self._factors = self._as_factors(tensors)
            self.apply()
            return
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.mul_(torch.from_numpy(masks[layer.parameter_name]).to(layer.weight.device))

    @torch.no_grad()
    def apply(self) -> None:
        """Set every masked weight to zero."""
        if self.in_force is not None:
            multiply([layer.weight for layer in self.layers], self.factors())

    @torch.no_grad()
    def apply_to_gradients(self) -> None:
        """Set the gradient of every masked weight to zero, so that it does not count in a gradient norm."""
        if self.in_force is not None:
            for layer, factor in zip(self.layers, self.factors(), strict=True):
                if layer.weight.grad is not None:
                    layer.weight.grad.mul_(factor)

    def factors(self) -> list[Tensor]:
        """The current mask as tensors of ones and zeros, one a layer; empty without a mask.

        They have the type and device of the weights, and are made again after the model has moved.
        """
        if self.in_force is None:
            return []
        weights = [layer.weight for layer in self.layers]
        stale = any(f.device != w.device or f.dtype != w.dtype for f, w in zip(self._factors, weights, strict=False))
        if stale or not self._factors:
            self._factors = self._as_factors({name: torch.from_numpy(mask) for name, mask in self.in_force.items()})
        return self._factors

    def _as_factors(self, masks: Mapping[str, Tensor]) -> list[Tensor]:
        weights = [(layer.weight, masks[layer.parameter_name]) for layer in self.layers]
        return [torch.empty_like(weight, requires_grad=False).copy_(mask) for weight, mask in weights]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_factors": []}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Restore from a pickle. Pickles of version 0.4 use other attribute names."""
        self.__dict__.update({_NAMES_OF_0_4.get(name, name): value for name, value in state.items()})


class Pruner(MaskedLayers):
    """Finds the masks of one model, level by level.

    criterion: see `criteria.py`. seed: seeds the criterion's noise. regrows: for schedules whose sparsity also falls.
    The pruner then stores the score of each weight at its removal, because a removed weight is zero and has no
    meaningful score. Weights with the best stored scores return first. `levels` holds the masks after each prune,
    `counts_by_level` the number of weights kept, starting with the dense network. ranker: finds masks of single weights
    that only shrink, together with those of other networks; None, or if it finds none: they are found here, on the CPU.
    """

    ranker: Ranker | None = None

    def __init__(
        self,
        layers: Sequence[Layer],
        criterion: Criterion,
        *,
        granularity: str = "weight",
        context: str = "local",
        seed: int = 0,
        regrows: bool = False,
    ) -> None:
        super().__init__(layers)
        self.criterion, self.context, self.seed = criterion, context, seed
        self.axes = {
            layer.parameter_name: group_axes(granularity, layer.weight.ndim, layer.transposed, layer.name)
            for layer in self.layers
        }
        self.output_axes = {layer.parameter_name: int(layer.transposed) for layer in self.layers}
        self.levels: list[dict[str, Mask]] = []
        self.counts_by_level = [self.counts]
        self.requested_sparsity: dict[str, Fraction] = dict.fromkeys(self.counts, Fraction(0))
        self.initial = {layer.parameter_name: layer.weight.detach().clone() for layer in self.layers}
        self.previous = self.initial
        self.regrows = regrows
        self.last_scores: dict[str, Scores] = {}

    @torch.no_grad()
    def prune(
        self,
        sparsity: Sparsity,
        model: nn.Module | None = None,
        batches: Batches | None = None,
    ) -> None:
        """Prune the layers to `sparsity` and apply the new mask.

        sparsity: one fraction, or one by parameter name. Masks only shrink while sparsity rises, and only grow while it
        falls. model, batches: the network and training data, needed by criteria marked with `uses_inputs`.
        """
        requested = dict.fromkeys(self.counts, sparsity) if isinstance(sparsity, Fraction) else dict(sparsity)
        inputs: Mapping[str, Tensor] = {}
        if needs_inputs(self.criterion):
            assert model is not None and batches is not None, "this criterion needs the model and training data"
            inputs = input_norms(model, self.layers, batches)
        found = self._found_together(requested, inputs) if self._can_be_together(sparsity) else None
        if found is None:
            masks, tensors = self._found_here(sparsity, requested, inputs), None
        else:
            masks, tensors = {n: mask.numpy() for n, mask in self._by_layer(found.cpu()).items()}, self._by_layer(found)
        self.requested_sparsity = requested
        self._apply_new_mask(masks, tensors)
        if reads_previous(self.criterion):
            self.previous = {layer.parameter_name: layer.weight.detach().clone() for layer in self.layers}

    def replace_mask(self, masks: dict[str, Mask]) -> None:
        """Replace the masks of the last level and apply the new ones. Weights that the old ones removed stay zero."""
        self.levels.pop()
        self.counts_by_level.pop()
        self._apply_new_mask(masks)

    def _apply_new_mask(self, masks: dict[str, Mask], tensors: Mapping[str, Tensor] | None = None) -> None:
        self.apply_mask(masks, tensors)
        if self.collapsed:
            names = ", ".join(self.collapsed)
            warnings.warn(f"no weight is left in {names} at {self.sparsity_pct:.2f} %", stacklevel=3)

    def _found_here(
        self, sparsity: Sparsity, requested: Mapping[str, Fraction], inputs: Mapping[str, Tensor]
    ) -> dict[str, Mask]:
        """The masks, found on the CPU."""
        regrow = self.regrows and any(requested[name] < self.requested_sparsity[name] for name in requested)
        if self.context == "global" or self.regrows:
            scores = {
                layer.parameter_name: _on_cpu(self._scores(index, inputs)) for index, layer in enumerate(self.layers)
            }
            if self.regrows:
                scores = self.last_scores = self._recalled(scores)
            return self._masks(scores, sparsity, regrow)
        masks: dict[str, Mask] = {}
        for index, layer in enumerate(self.layers):  # so that only one layer's scores are in memory
            name, own = layer.parameter_name, _on_cpu(self._scores(index, inputs))
            masks |= self._masks({name: own}, {name: requested[name]}, regrow)
        return masks

    def _can_be_together(self, sparsity: Sparsity) -> bool:
        """Whether the masks can be found by the ranker, if there is one."""
        is_ranked = self.context == "local" or (self.context == "global" and isinstance(sparsity, Fraction))
        return is_ranked and not self.regrows and not any(self.axes.values()) and self.n_weights <= MOST_TOGETHER

    def _found_together(self, requested: Mapping[str, Fraction], inputs: Mapping[str, Tensor]) -> Tensor | None:
        """The mask of all layers in one row, on their device, if the ranker finds it."""
        if self.ranker is None:
            return None
        each = [(layer.weight.numel(), self.counts[layer.parameter_name]) for layer in self.layers]
        asked = [requested[layer.parameter_name] for layer in self.layers]
        if self.context == "global":
            each, asked = [(self.n_weights, self.n_kept)], asked[:1]
        scores = torch.cat([self._scores(index, inputs).flatten() for index in range(len(self.layers))])
        factors = [factor.flatten() for factor in self.factors()]
        return self.ranker(
            Ranking(
                scores=scores,
                was_kept=torch.cat(factors) != 0 if factors else torch.ones_like(scores, dtype=torch.bool),
                sizes=tuple(n for n, _ in each),
                n_zeros=tuple(max(count_zeros(n, s), n - kept) for (n, kept), s in zip(each, asked, strict=True)),
            )
        )

    def _by_layer(self, mask: Tensor) -> dict[str, Tensor]:
        parts = zip(self.layers, mask.split([layer.weight.numel() for layer in self.layers]), strict=True)
        return {layer.parameter_name: part.view(layer.weight.shape) for layer, part in parts}

    def _masks(self, scores: Mapping[str, Scores], sparsity: Sparsity, regrow: bool) -> dict[str, Mask]:
        before = self.in_force
        previous = {name: before[name] for name in scores} if before is not None else None
        return prune(
            scores, sparsity, axes=self.axes, context=self.context, previous=previous, regrow=regrow,
            output_axes=self.output_axes,
        )  # fmt: skip

    def set_mask(self, masks: dict[str, Mask]) -> None:
        super().set_mask(masks)
        self.levels.append(masks)
        self.counts_by_level.append(self.counts)

    def _recalled(self, scores: dict[str, Scores]) -> dict[str, Scores]:
        """Current scores of the kept weights, stored scores of the removed ones."""
        if self.in_force is None or not self.last_scores:
            return scores
        return {name: np.where(self.in_force[name], s, self.last_scores[name]) for name, s in scores.items()}

    def _scores(self, index: int, inputs: Mapping[str, Tensor]) -> Tensor:
        layer = self.layers[index]
        weight, name = layer.weight.detach(), layer.parameter_name
        scores = self.criterion(
            Weights(
                now=weight,
                initial=self.initial[name].to(weight),
                previous=self.previous[name].to(weight),
                draw=lambda: self._noise(index, weight),
                inputs=inputs.get(name),
            )
        )
        return scores.float()

    def _noise(self, index: int, like: Tensor) -> Tensor:
        stream = generator(self.seed, "criterion", len(self.levels) + 1, index)
        return torch.from_numpy(stream.random(tuple(like.shape), dtype=np.float32)).to(like.device)


def _on_cpu(scores: Tensor) -> Scores:
    found: Scores = scores.cpu().contiguous().numpy()
    return found


@torch.no_grad()
def check_criterion(criterion: Criterion, layers: Sequence[Layer]) -> None:
    """Raise `UserError` if a user's criterion gives no scores. It is tried on the smallest layer, without a trace."""
    sizable = [layer.weight.detach() for layer in layers if layer.weight.numel()]
    if any(criterion is own for own in CRITERIA.values()) or not sizable:
        return
    weight = min(sizable, key=Tensor.numel)
    copies = [weight.clone() for _ in range(3)]
    where, inputs = f"criteria: {name_of(criterion)}", torch.ones_like(weight) if needs_inputs(criterion) else None
    expected = "expected a function of Weights that returns a score for each weight, such as lambda w: w.now.abs()"
    try:
        with all_streams_put_back():
            scores = criterion(
                Weights(now=copies[0], initial=copies[1], previous=copies[2], draw=lambda: weight * 0, inputs=inputs)
            )
    except Exception as error:  # whatever the user's function raises, it is no criterion
        raise UserError(f"{where} raises {type(error).__name__}: {words_of(error)}; {expected}") from error
    if not isinstance(scores, Tensor) or scores.shape != weight.shape:
        found = f"a tensor {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise UserError(f"{where} returns {found} for weights {tuple(weight.shape)}; {expected}")


def report(masked: MaskedLayers) -> str:
    """The sparsity report as text: a row for each layer and one for all. Zeros are counted in the current mask."""
    rule = "-" * 80
    rows = [
        (layer.name, layer.type, layer.weight.numel(), layer.weight.numel() - masked.counts[layer.parameter_name])
        for layer in masked.layers
    ]
    total = ("Overall", "all", masked.n_weights, masked.n_weights - masked.n_kept)
    head = f"{'Layer':<30} {'Type':<15} {'Params':<10} {'Zeros':<10} {'Sparsity':<10}"
    return "\n".join(["Sparsity Report:", rule, head, rule, *map(_row, rows), rule, _row(total)])


def _row(row: tuple[str, str, int, int]) -> str:
    name, kind, n, zeros = row
    return f"{name:<30} {kind:<15} {n:<10,} {zeros:<10,} {100 * zeros / n:>8.2f}%"
