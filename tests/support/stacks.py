"""Small members of a stack, on random images; and what they look like after some training."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lth_trainable.data.datasets import Dataset, Split
from lth_trainable.data.loaders import ResidentLoader, resident_loaders
from lth_trainable.models.networks import build
from lth_trainable.stacking.run import Run
from lth_trainable.stacking.slots import Member
from lth_trainable.stacking.stack import Stack

SHAPE, CLASSES, BATCH = (3, 16, 16), 10, 8
N_TRAIN, N_VALID = 44, 30  # five batches and half a one


class WithDropout(nn.Module):
    """A plug-in: a layer used twice, tied weights, a frozen parameter, dropout of both kinds, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.norm = nn.GroupNorm(2, 8)
        self.frozen = nn.Parameter(torch.full((8, 1, 1), 0.5), requires_grad=False)
        self.dense = nn.Linear(8 * 16, 12)
        self.tied = nn.Linear(8 * 16, 12)
        self.tied.weight = self.dense.weight
        self.out = nn.Linear(12, CLASSES, bias=False)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x), inplace=True) * self.frozen
        x = F.dropout2d(self.twice(self.norm(self.twice(x))), 0.25, self.training)
        if self.training:
            self.seen = 0.9 * self.seen + 0.1 * x.detach().mean((0, 2, 3))  # replaced, not changed
        x = F.avg_pool2d(F.max_pool2d(x, 2), 2).flatten(1)
        x = F.dropout(torch.tanh(self.dense(x) + self.tied(x)), 0.5, self.training)
        return self.out(x)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda name=name: build(name, SHAPE, CLASSES) for name in ("lenet_300_100", "conv_2", "resnet20")},  # type: ignore[misc]
    "with_dropout": WithDropout,
}


def loaders(device: str = "cpu", augment: str = "none", channels_last: bool = False) -> Any:
    """Train, valid and test loaders of random images."""
    stream = np.random.default_rng(7)

    def split(n: int) -> Split:
        images = stream.standard_normal((n, *SHAPE)).astype(np.float32)
        return Split(x=images, y=stream.integers(0, CLASSES, n))

    data = Dataset(
        train=split(N_TRAIN), valid=split(N_VALID), test=split(N_VALID), classes=tuple(map(str, range(CLASSES))),
        digest="random",
    )  # fmt: skip
    return resident_loaders(
        data, batch_size=BATCH, order_seed=1, device=device, augment=augment, channels_last=channels_last
    )


def optimizer_for(kind: str, model: nn.Module) -> torch.optim.Optimizer:
    """A fused optimiser, as a trial has it."""
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3, fused=True)
    on_gpu = next(model.parameters()).is_cuda
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True, capturable=on_gpu)


def member(network: str, seed: int, optimizer: str = "sgd", loader: ResidentLoader | None = None) -> Member:
    """A member with weights of its own, and a mask that removes about half of each weight matrix."""
    torch.manual_seed(seed)
    model = NETWORKS[network]()
    if loader is not None:
        model.to(loader.device)
        if loader.channels_last:
            model.to(memory_format=torch.channels_last)
    masked = [(name, value) for name, value in model.named_parameters() if value.ndim > 1 and value.requires_grad]
    draws = {name: torch.rand(value.shape) for name, value in masked}  # on the CPU: equal for all devices
    factors = {name: torch.empty_like(value).copy_(draws[name] < 0.5) for name, value in masked}
    with torch.no_grad():
        for name, factor in factors.items():
            model.get_parameter(name).mul_(factor)
    return Member(model=model, optimizer=optimizer_for(optimizer, model), factors=factors)


def run_of(loader: ResidentLoader, seed: int, rate: float = 0.01) -> Run:
    """An epoch in an order of its own."""
    own = loader.new(shuffle=True)
    own.order_seed, own.epoch = seed, seed
    full, rest = divmod(own.n, own.bs)
    sizes = (own.bs,) * full + ((rest,) if rest else ())
    steps = range(len(sizes))
    return Run(
        order=own.order(), sizes=sizes, draws=own.draws(), rates=tuple(rate * (1 + i) for i in steps),
        seeds=tuple(1000 * seed + i for i in steps),
    )  # fmt: skip


def stack_of(like: Member, dls: Any, k: int, precision: str = "fp32") -> Stack:
    return Stack(like.model, like.optimizer, dls.train, nn.CrossEntropyLoss(), precision, k)


def trained(
    stack: Stack, members: Mapping[int, Member], runs: Mapping[int, Run], dls: Any, epochs: int = 2
) -> dict[int, dict[str, Any]]:
    """Digests of all tensors of each slot after these epochs, and its losses. The members are copied before."""
    members = {slot: copied(member) for slot, member in members.items()}
    found: dict[int, dict[str, Any]] = {slot: {} for slot in members}
    for epoch in range(epochs):
        stack.load_all(members)
        losses = stack.train(runs)
        measured = stack.evaluate(list(members), dls.valid)
        stack.unload_all(members)
        for slot in members:
            found[slot] |= {f"loss {epoch}": digest(losses[slot]), f"validation {epoch}": repr(measured[slot][:2])}
    for slot, own in members.items():
        found[slot] |= {name: digest(value) for name, value in tensors_of(own).items()}
    return found


def copied(own: Member) -> Member:
    """The same member in other memory."""
    model = copy.deepcopy(own.model)
    optimizer = optimizer_for("sgd" if isinstance(own.optimizer, torch.optim.SGD) else "adamw", model)
    optimizer.load_state_dict(own.optimizer.state_dict())
    return replace(own, model=model, optimizer=optimizer)


def tensors_of(own: Member) -> dict[str, Tensor]:
    """Weights, buffers and the optimiser's state by name."""
    found = dict(own.model.state_dict())
    for name, parameter in own.model.named_parameters():
        for key, value in own.optimizer.state.get(parameter, {}).items():
            found[f"{name}/{key}"] = value
    return found


def digest(value: Tensor) -> str:
    return hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:12]


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Sequence[str]:
    """Names under which two members differ."""
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


def diverged(network: str, optimizer: str, loader: ResidentLoader | None = None) -> Member:
    """A member all of whose weights are NaN."""
    own = member(network, 99, optimizer, loader)
    with torch.no_grad():
        for value in own.model.parameters():
            value.fill_(float("nan"))
    return own
