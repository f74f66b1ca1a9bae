"""What reaches each layer: the network runs over a little training data, and is afterwards as it was.

Criteria marked with `uses_inputs` weigh by it. Neither the network (buffers, attributes, flags of training) nor the
loaders nor any global random stream change.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lth_trainable.errors import UserError, words_of
from lth_trainable.pruning.layers import PRUNABLE, Layer, named_modules, unwrapped
from lth_trainable.streams import all_streams_put_back

# The inputs of a network, batch by batch: a tensor, or a tuple if there are several
Batches = Callable[[], Iterable[Any]]
CALIBRATION_BATCHES = 8
_REMEDY = "leave such layers out (layers=), or use a criterion that needs no inputs, such as large_final"


def calibration(dls: Any) -> Batches:
    """The inputs of the first few training batches, unshuffled. dls: DataLoaders, with loaders of fastai or torch."""

    def batches() -> Iterable[tuple[Any, ...]]:
        for batch in itertools.islice(_unshuffled(dls.train), CALIBRATION_BATCHES):
            n_inputs = getattr(dls, "n_inp", max(1, len(batch) - 1))  # as fastai's Learner tells inputs from targets
            yield tuple(batch[:n_inputs])

    return batches


def input_norms(model: nn.Module, layers: Sequence[Layer], batches: Batches) -> dict[str, Tensor]:
    """Root mean square of each layer's input channels over `batches`, by parameter name.

    Each tensor has a shape that can be multiplied with the weight. The model is in evaluation mode. Raises `UserError`
    if a layer is not reached.
    """
    sums: dict[str, Tensor] = {layer.parameter_name: torch.zeros((), dtype=torch.float64) for layer in layers}
    seen = dict.fromkeys(sums, 0)

    def add(layer: Layer, x: Tensor) -> None:
        channel, name = _channel(layer, x), layer.parameter_name
        over = [d for d in range(x.ndim) if d != channel]
        sums[name] = sums[name].to(x.device) + x.double().square().sum(over)
        seen[name] += x.numel() // x.shape[channel]

    _run(model, layers, batches, add, lambda: False)
    _refuse([layer for layer in layers if not seen[layer.parameter_name]])
    return {layer.parameter_name: _beside(layer, sums, seen) for layer in layers}


def check_inputs(model: nn.Module, layers: Sequence[Layer], batches: Batches) -> None:
    """Raise one `UserError` if `input_norms` will not find the inputs of every layer."""
    modules = named_modules(model)
    _refuse([layer for layer in layers if not isinstance(modules[layer.name], PRUNABLE)])
    left = {layer.parameter_name for layer in layers}
    try:
        _run(model, layers, batches, lambda layer, x: left.discard(layer.parameter_name), lambda: not left)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the user's network and data: whatever they raise, they cannot be calibrated
        raise UserError(
            "criteria: found one that weighs by the inputs of each layer; expected a network that runs on a training"
            f" batch outside of a step of the fit; it raises {type(error).__name__}: {words_of(error)}; use a criterion"
            " that needs no inputs, such as large_final"
        ) from error
    _refuse([layer for layer in layers if layer.parameter_name in left])


def _refuse(unreached: Sequence[Layer]) -> None:
    if unreached:
        names = ", ".join(f"{layer.name} ({layer.type})" for layer in unreached)
        raise UserError(
            "criteria: found one that weighs by the inputs of each layer; expected convolutions and linear layers that"
            f" are called on training data in evaluation mode; not so: {names}; {_REMEDY}"
        )


def _run(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Batches,
    see: Callable[[Layer, Tensor], None],
    is_enough: Callable[[], bool],
) -> None:
    """Run the model over the batches until it `is_enough`; `see` gets what reaches each layer, with a batch axis."""

    def watch(layer: Layer) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            x = (args[0] if args else named["input"]).detach().as_subclass(Tensor)
            see(layer, x if x.ndim >= layer.weight.ndim else x[None])

        return modules[layer.name].register_forward_pre_hook(hook, with_kwargs=True)

    network, modules, hooks = unwrapped(model), named_modules(model), []
    eager = torch.compiler.set_stance("force_eager")  # what is compiled already does not call new hooks
    with torch.no_grad(), eager, all_streams_put_back(), _as_it_was(network):
        try:
            hooks = [watch(layer) for layer in layers]
            network.eval()
            for batch in batches():
                network(*on_device_of(network, batch if isinstance(batch, tuple) else (batch,)))
                if is_enough():
                    return
        finally:
            for hook in hooks:
                hook.remove()


def _channel(layer: Layer, x: Tensor) -> int:
    """The axis of the channels: of a linear layer's input the last, of a convolution's that before the positions."""
    return x.ndim - (layer.weight.ndim - 1)


@contextlib.contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Afterwards every module has its attributes and buffers again; some count their calls, or keep a hidden state."""
    modules = list(model.modules())
    attributes = [dict(module.__dict__) for module in modules]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    members = [dict(module._buffers) for module in modules]
    try:
        yield
    finally:
        for module, before, own in zip(modules, attributes, members, strict=True):
            module.__dict__.clear()
            module.__dict__.update(before)
            module._buffers.clear()
            module._buffers.update(own)
        for buffer, before_run in buffers:
            buffer.copy_(before_run)


def on_device_of(model: nn.Module, inputs: Sequence[Any]) -> list[Any]:
    """The inputs, tensors among them on the device of the model's weights."""
    parameter = next(model.parameters(), None)
    return [x.to(parameter.device) if parameter is not None and isinstance(x, Tensor) else x for x in inputs]


def _unshuffled(loader: Any) -> Iterable[Any]:
    """A loader like this one that does not shuffle, so that the loader itself is not used up."""
    if hasattr(loader, "new"):
        return loader.new(shuffle=False, drop_last=False)
    if not isinstance(loader, DataLoader):
        return loader
    own_batches = loader.batch_size is None and loader.batch_sampler is not None
    batching = {"batch_sampler": loader.batch_sampler} if own_batches else {"batch_size": loader.batch_size}
    return DataLoader(
        loader.dataset, **batching, collate_fn=loader.collate_fn, num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
    )  # fmt: skip


def _beside(layer: Layer, sums: Mapping[str, Tensor], seen: Mapping[str, int]) -> Tensor:
    """A layer's norm of each input channel, with as many axes as its weight."""
    name, n_dims = layer.parameter_name, layer.weight.ndim
    norms = (sums[name] / max(seen[name], 1)).sqrt().to(layer.weight)
    if layer.transposed:
        return norms.reshape(-1, *[1] * (n_dims - 1))
    groups = norms.numel() // layer.weight.shape[1]  # a grouped convolution's output sees only its group's channels
    rows = norms.reshape(groups, layer.weight.shape[1]).repeat_interleave(layer.weight.shape[0] // groups, dim=0)
    return rows.reshape(*rows.shape, *[1] * (n_dims - 2))
