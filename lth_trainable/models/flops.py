"""What a trial's arithmetic costs in theory: multiply-adds of its convolutions and linear layers.

A multiply-add counts once (Blalock et al., arXiv 2003.03033; others count it twice), and one with a weight that is zero
not at all, though hardware that skips no zeros saves nothing. Counted are the layers that can be pruned, pruned or not,
padding included; not biases, norms, activations, pooling, products of activations with each other, the optimiser, or
validation. A training step costs three forward passes: the gradients of inputs and of weights are as dear as one each
(Evci et al., arXiv 1911.11134). The first layer, which needs no gradient of its input, is no exception.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

PASSES = 3  # forward passes that a training step costs


def weight_uses(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Multiply-adds of one picture in which each weight of a layer takes part, by parameter name.

    That is the number of places of a convolution's output (of a transposed one's input), and 1 for a linear layer that
    sees a picture once. x: (n, ...), pictures to send through, which leave no trace. Layers that are not called as
    modules have 0.
    """
    import torch

    from lth_trainable.pruning.layers import LAYER_TYPES, PRUNABLE, Layer, prunable_layers, unwrapped

    layers = {id(layer.weight): layer for layer in prunable_layers(model, LAYER_TYPES["all"])}
    uses = {layer.parameter_name: 0 for layer in layers.values()}

    def watch(layer: Layer) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            places = args[0] if layer.transposed else output
            uses[layer.parameter_name] += places.numel() // (len(x) * layer.weight.shape[0])

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

    weights: number and uses of each weight that can be pruned, by parameter name. kept: weights left of those that are
    pruned, level by level, dense first. rows: the epochs. n_train: pictures of the training part.
    """
    whole = {name: weight["n"] for name, weight in weights.items()}
    forward = [
        sum(n * weights[name]["uses"] for name, n in {**whole, **counts}.items()) for counts in kept
    ]  # of one picture, by level
    images = _images(rows, batch_size, n_train)
    return {
        "epochs_total": len(rows),
        "flops_dense": float(PASSES * forward[0] * sum(images)),
        "flops_sparse": float(PASSES * sum(forward[row["level"]] * n for row, n in zip(rows, images, strict=True))),
        "inference_flops_dense": float(forward[0]),
        "inference_flops_sparse": float(forward[-1]),
    }


def _images(rows: Iterable[Mapping[str, Any]], batch_size: int, n_train: int) -> list[int]:
    """Pictures of each epoch: all, but that a level rewound to an iteration begins in the middle of one."""
    steps = -(-n_train // batch_size)
    return [n_train - (steps - row["iterations"]) * batch_size for row in rows]
