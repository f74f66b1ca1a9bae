"""The source of a network in torch alone: a class with the same names of weights, whatever the network was built with.

`torch.fx` records what the network calls; what it calls must be layers of `torch.nn` and functions of torch. The source
is returned only if, run on its own, it gives the same bits as the network. It is recorded in evaluation mode.
"""

from __future__ import annotations

import inspect
from collections.abc import Set
from typing import Any

import torch
from torch import Tensor, fx, nn

HEAD = """class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
"""
PUT = '''def put(network: nn.Module, name: str, part: nn.Module | torch.Tensor) -> None:
    """Put a layer, parameter or buffer at its place, so that it has its name in the file of weights."""
    *above, last = name.split(".")
    for step in above:
        if step not in dict(network.named_children()):
            network.add_module(step, nn.Module())
        network = getattr(network, step)
    if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
        network.register_buffer(last, part)
    else:
        setattr(network, last, part)
'''
BATCHES = (2, 3)  # sizes to try: a number of images that was recorded by mistake shows as an error
_KNOWN = {"torch": torch, "nn": nn, "inf": float("inf"), "nan": float("nan"), "device": torch.device}


class _Unknown(Exception):
    """The network has a part that is not one of torch's."""


def plain_source(network: nn.Module, shape: tuple[int, int, int]) -> str | None:
    """The source of a class `Network` that is this network, and of its helper `put`; None if torch alone does not do.

    network: on the CPU. shape: (channels, height, width) of an image. The source needs `torch` and `nn` by name.
    """
    training = network.training
    network.eval()
    try:
        source = _written(network)
        return source if _gives_the_same(source, network, shape) else None
    except Exception:  # whatever a foreign network, its recording or the written source raises: there is no such source
        return None
    finally:
        network.train(training)


class _Recorder(fx.Tracer):
    """Records what a network does when it is not trained."""

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As in fx; torchvision's stochastic depth does nothing then, and fx cannot write it down."""
        return args[0] if type(m).__name__ == "StochasticDepth" else super().call_module(m, forward, args, kwargs)


def _written(network: nn.Module) -> str:
    graph = _Recorder().trace(network)
    layers = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    parts = {name: f"nn.{layer_call(layer)}" for name, layer in network.named_modules() if name in layers}
    held = {name: t for name, t in network.state_dict().items() if not _is_within(name, layers)}
    learned = dict(network.named_parameters())
    parts |= {name: _empty(tensor, name in learned) for name, tensor in held.items()}
    body = "".join(f"        put(self, {name!r}, {part})\n" for name, part in parts.items())
    return f"{PUT}\n\n{HEAD}{body}\n{_forward(graph)}"


def _is_within(name: str, layers: Set[str]) -> bool:
    """Whether a tensor belongs to one of these layers, or to a layer in it."""
    above = name.split(".")
    return any(".".join(above[:n]) in layers for n in range(1, len(above)))


def _empty(tensor: Tensor, is_learned: bool) -> str:
    made = f"torch.empty({tuple(tensor.shape)}, dtype={tensor.dtype})"
    return f"nn.Parameter({made})" if is_learned else made


def layer_call(layer: nn.Module) -> str:
    """The call that makes a layer of `torch.nn`, such as `Linear(64, 10)`, with the arguments that differ from default.

    Raises `_Unknown` for other layers.
    """
    kind = type(layer)
    if getattr(nn, kind.__name__, None) is not kind:
        raise _Unknown(kind)
    required, chosen = [], []
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        if name in ("device", "dtype") or not hasattr(layer, name):
            continue
        value = getattr(layer, name)
        value = value is not None if isinstance(value, Tensor) or name == "bias" else value
        if parameter.default is inspect.Parameter.empty:
            required.append(repr(value))
        elif value != parameter.default and not _is_each(value, parameter.default):
            chosen.append(f"{name}={value!r}")
    call = f"{kind.__name__}({', '.join(required + chosen)})"
    if repr(eval(f"nn.{call}", {"nn": nn})) != repr(layer):  # of a class of torch and what it says of itself
        raise _Unknown(call)
    return call


def _is_each(value: Any, default: Any) -> bool:
    """Whether a value per dimension is the default for all of them: (1, 1) of a stride 1."""
    return isinstance(value, tuple) and bool(value) and all(one == default for one in value)


def _forward(graph: fx.Graph) -> str:
    """The method `forward`, without the deletions of variables that fx writes into it."""
    lines = [line.partition(";  ")[0].rstrip() for line in graph.python_code("self").src.strip("\n").splitlines()]
    return "".join(f"    {line}\n" for line in lines if line.strip())


def _gives_the_same(source: str, network: nn.Module, shape: tuple[int, int, int]) -> bool:
    names: dict[str, Any] = dict(_KNOWN)
    exec(source, names)
    copy = names["Network"]().eval()
    copy.load_state_dict(network.state_dict())
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images = [torch.randn(n, *shape) for n in BATCHES]
        return all(torch.equal(copy(x), network(x)) for x in images)
