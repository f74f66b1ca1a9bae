"""The theoretical cost of a trial: multiply-adds of its convolutions and linear layers.

A multiply-add counts once (Blalock et al., arXiv 2003.03033; others count it twice). One with a zero weight does not
count, although hardware that does not skip zeros saves nothing. Only layers that can be pruned count, whether they are
pruned or not, including padding. Biases, norms, activations, pooling, products of activations, the optimiser and
validation do not count. A training step costs three forward passes, because the gradients of inputs and of weights cost
one each (Evci et al., arXiv 1911.11134). The first layer counts in the same way, although it needs no gradient of its
input.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

PASSES = 3  # cost of a training step in forward passes


def weight_uses(model: nn.Module, x: Tensor) -> dict[str, int]:
    """In how many multiply-adds for one image each weight of a layer takes part, by parameter name.

    This is the number of positions in a convolution's output (in a transposed convolution's input), and 1 for a linear
    layer that sees an image once. x: images (n, ...) to pass through the model, whose state does not change. Layers
    that are not called as modules have 0.
    """
    import torch

    from lth_trainable.pruning.layers import LAYER_TYPES, PRUNABLE, Layer, prunable_layers, unwrapped

    layers = {id(layer.weight): layer for layer in prunable_layers(model, LAYER_TYPES["all"])}
    uses = {layer.parameter_name: 0 for layer in layers.values()}

    def watch(layer: Layer) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            positions = args[0] if layer.transposed else output
            uses[layer.parameter_name] += positions.numel() // (len(x) * layer.weight.shape[0])

        return hook

    modules = [module for module in unwrapped(model).modules() if isinstance(module, PRUNABLE)]
    watched = [(module, layers[id(module.weight)]) for module in modules if id(module.weight) in layers]
    hooks = [module.register_forward_hook(watch(layer)) for module, layer in watched]
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            model(x)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return uses


def costs(
    weights: Mapping[str, Mapping[str, Any]],
    kept: Sequence[Mapping[str, int]],
    rows: Sequence[Mapping[str, Any]],
    *,
    batch_size: int,
    n_train: int,
) -> dict[str, Any]:
    """Epochs of a trial's whole chain, as if trained alone, and multiply-adds of its training and of one prediction.

    weights: size ("n") and uses of each layer that can be pruned, by parameter name. kept: number of weights kept in
    the pruned layers, by level, dense first. rows: the epochs. n_train: number of images in the training split.
    """
    whole = {name: weight["n"] for name, weight in weights.items()}
    forward = [
        sum(n * weights[name]["uses"] for name, n in {**whole, **counts}.items()) for counts in kept
    ]  # for one image, by level
    images = _images(rows, batch_size, n_train)
    return {
        "epochs_total": len(rows),
        "flops_dense": float(PASSES * forward[0] * sum(images)),
        "flops_sparse": float(PASSES * sum(forward[row["level"]] * n for row, n in zip(rows, images, strict=True))),
        "inference_flops_dense": float(forward[0]),
        "inference_flops_sparse": float(forward[-1]),
    }


def _images(rows: Iterable[Mapping[str, Any]], batch_size: int, n_train: int) -> list[int]:
    """Number of images in each epoch: all, except where a level is rewound to an iteration within an epoch."""
    steps = -(-n_train // batch_size)
    return [n_train - (steps - row["iterations"]) * batch_size for row in rows]
