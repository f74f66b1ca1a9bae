"""What a SparsifyCallback prints at the start and at the end of a fit, besides the table of layers."""

from __future__ import annotations

from collections.abc import Mapping

from lth_trainable.pruning.inventory import Inventory
from lth_trainable.pruning.layer_targets import Sparsity
from lth_trainable.pruning.pruner import MaskedLayers, report


def opening(granularity: str, sparsity: Sparsity, inventory: Inventory) -> list[str]:
    """What is pruned and how far, and what is left out and why."""
    wanted = f"{sparsity:g}%" if not isinstance(sparsity, Mapping) else f"{dict(sparsity)} %"
    return [f"Pruning of {granularity} until a sparsity of {wanted}", *inventory.left_out()]


def closing(masked: MaskedLayers, inventory: Inventory) -> str:
    """The sparsity that was reached, how much of all weights that is, dead filters, and the table of layers."""
    dead = masked.dead_filters
    said = [
        f"Dead filters: {dead[layer.name]:,} of {layer.weight.shape[0]:,} in {layer.name} (depthwise), which pass"
        " nothing on"
        for layer in masked.layers
        if layer.name in dead
    ]
    shares = inventory.shares(masked.n_kept)
    return "\n".join([f"Final Sparsity: {masked.sparsity_pct:.2f}%", *shares, *said, "", report(masked)])
