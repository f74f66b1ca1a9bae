"""The memory of a stack: K networks side by side, with their optimisers' states and their masks.

A tensor of the network of shape s is one of shape (K, *s) here, each slot laid out as in the network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from lth_trainable.stacking.optimisers import Update, settings_of
from lth_trainable.tensors import copy_all, multiply

Places = list[tuple[str, "ref[nn.Module]", str]]  # of tensors: name, module, attribute


@dataclass(frozen=True, kw_only=True)
class Member:
    """A network with its optimiser, and its mask: factors of ones and zeros by parameter name; without one, empty.

    optimizer: torch's own; of fastai's wrapper that is its `opt`.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    factors: Mapping[str, Tensor] = field(default_factory=dict)


class Slots:
    """K slots for networks like `model`. They start as copies of it, without a state of the optimiser or a mask.

    updates_whole: whether an update of all slots at once, as if they were one network, gives the bytes of an update of
    each. Of many small tensors a GPU needs several kernels, each with too little work for it.
    """

    updates_whole = False

    def __init__(self, model: nn.Module, update: Update, k: int) -> None:
        self.k, self.update = k, update
        self.parameters = {name: _stacked(value, k) for name, value in model.named_parameters()}
        self.buffers = {name: _stacked(value, k) for name, value in model.named_buffers()}
        for name, value in model.named_parameters():
            self.parameters[name].requires_grad_(value.requires_grad)
        self.trained = [name for name, value in self.parameters.items() if value.requires_grad]
        self.state = {
            name: {key: _stacked(update.empty(key, model.get_parameter(name)), k) for key in update.keys}
            for name in self.trained
        }
        self.factors: dict[str, Tensor] = {}  # only of parameters that some member has had a mask for
        self.has_state: set[str] = set()  # parameters that an update has changed
        self.tensors = {**self.parameters, **self.buffers}
        self._views = {name: value.detach().unbind(0) for name, value in self.tensors.items()}
        self._places: WeakKeyDictionary[nn.Module, Places] = WeakKeyDictionary()
        self._state_views = {
            name: {key: value.unbind(0) for key, value in of.items()} for name, of in self.state.items()
        }

    @property
    def n_masks(self) -> int:
        """Number of parameters with a mask in some slot; more of them make another step."""
        return len(self.factors)

    @torch.no_grad()
    def load(self, members: Mapping[int, Member]) -> None:
        """Copy these members into their slots."""
        targets: list[Tensor] = []
        sources: list[Tensor] = []
        for slot, member in members.items():
            if settings_of(member.optimizer) != self.update.settings:
                found, expected = settings_of(member.optimizer), self.update.settings
                raise ValueError(f"member of slot {slot}: found an optimiser with {found}; expected {expected}")
            state = member.optimizer.state
            for name, value in self.tensors_of(member.model):
                targets.append(self._views[name][slot])
                sources.append(value)
                known = state.get(value, {})
                for key, views in self._state_views.get(name, {}).items():
                    if known.get(key) is None:  # before its first step
                        views[slot].zero_()
                    else:
                        targets.append(views[slot])
                        sources.append(known[key])
            for name in {**self.factors, **member.factors}:
                factor = member.factors.get(name)
                if name not in self.factors:
                    self.factors[name] = torch.ones_like(self.parameters[name], requires_grad=False)
                if factor is None:
                    self.factors[name][slot].fill_(1)
                else:
                    targets.append(self.factors[name][slot])
                    sources.append(factor)
        copy_all(targets, sources)

    @torch.no_grad()
    def unload(self, members: Mapping[int, Member]) -> None:
        """Copy slots back into these members: weights, buffers, and the state of the optimiser."""
        targets: list[Tensor] = []
        sources: list[Tensor] = []
        for slot, member in members.items():
            for name, value in self.tensors_of(member.model):
                targets.append(value)
                sources.append(self._views[name][slot])
                if name not in self.has_state:
                    continue
                known = member.optimizer.state[value]
                for key, views in self._state_views[name].items():
                    if known.get(key) is None:
                        known[key] = self.update.empty(key, value)
                    targets.append(known[key])
                    sources.append(views[slot])
        copy_all(targets, sources)

    def tensors_of(self, model: nn.Module) -> Iterable[tuple[str, Tensor]]:
        """Parameters and buffers by name. Where they are in the model is found once; that takes PyTorch a while."""
        if model not in self._places:
            names = [*dict(model.named_parameters()), *dict(model.named_buffers())]
            parts = [name.rpartition(".") for name in names]
            self._places[model] = [
                (name, ref(model.get_submodule(module)), own)
                for name, (module, _, own) in zip(names, parts, strict=True)
            ]
        return ((name, getattr(module(), own)) for name, module, own in self._places[model])

    def are_in_step(self, running: Collection[int]) -> bool:
        """Whether the slots that run can be updated as one: they have made equally many steps, if that is counted.

        If so, the others are made to have, which hold nothing that is wanted; call `end_in_step` after the updates.
        """
        if not self.updates_whole:
            return False
        counts = self._counts()
        if counts:
            first, *_ = running
            found = torch.stack(counts)[:, sorted(running)]
            if not bool((found == found[:, :1]).all()):
                return False
            for count in counts:
                count.copy_(count[first].clone().expand_as(count))
        return True

    def end_in_step(self) -> None:
        """After updates of all slots as one, which count the steps of the first only."""
        for count in self._counts():
            count.copy_(count[0].clone().expand_as(count))

    def _counts(self) -> list[Tensor]:
        """Numbers of steps (k,) of each parameter, if the optimiser counts them."""
        return [of["step"] for of in self.state.values() if "step" in of]

    @torch.no_grad()
    def step(
        self, gradients: Mapping[str, Tensor], groups: Sequence[Sequence[int]], rates: Sequence[Tensor],
        as_one: bool = False,
    ) -> None:  # fmt: skip
        """Update all slots, and set what their masks remove to zero.

        gradients: (K, ...) by name. groups: slots that have the same learning rate; rates: that of each group. as_one:
        all slots at once, if they are in step and have one rate.
        """
        laid_out = {name: _like(gradient, self.parameters[name]) for name, gradient in gradients.items()}
        if as_one:
            (rate,) = rates
            self.update_as_one(laid_out, rate)
        else:
            self.update_each(laid_out, groups, rates)
        self.has_state.update(laid_out)
        if self.factors:
            multiply([self.parameters[name].detach() for name in self.factors], list(self.factors.values()))

    def update_as_one(self, gradients: Mapping[str, Tensor], rate: Tensor) -> None:
        """An update of all slots as if they were one network."""
        state = {
            key: [self.state[name][key][0] if key == "step" else self.state[name][key] for name in gradients]
            for key in self.update.keys
        }
        weights = [self.parameters[name].detach() for name in gradients]
        self.update(weights, list(gradients.values()), state, rate)

    def update_each(
        self, gradients: Mapping[str, Tensor], groups: Sequence[Sequence[int]], rates: Sequence[Tensor]
    ) -> None:
        """An update of each slot."""
        of_slots = {name: gradient.unbind(0) for name, gradient in gradients.items()}
        for slots, rate in zip(groups, rates, strict=True):
            places = [(name, slot) for name in of_slots for slot in slots]  # large tensors of all slots in a row
            state = {key: [self._state_views[name][key][slot] for name, slot in places] for key in self.update.keys}
            weights = [self._views[name][slot] for name, slot in places]
            self.update(weights, [of_slots[name][slot] for name, slot in places], state, rate)


def _stacked(value: Tensor, k: int) -> Tensor:
    """k copies (k, ...), each laid out as the tensor is."""
    own = torch.empty_like(value, requires_grad=False)  # dense, in the same order of axes
    strides = (max(own.numel(), 1), *own.stride())
    found = torch.empty_strided((k, *own.shape), strides, dtype=own.dtype, device=own.device)
    return found.copy_(value.detach().unsqueeze(0).expand(k, *value.shape))


def _like(gradient: Tensor, weights: Tensor) -> Tensor:
    """The gradient, each slot laid out as the weights are: fused updates go through memory as it lies."""
    if gradient.stride() == weights.stride():
        return gradient
    return torch.empty_like(weights, requires_grad=False).copy_(gradient)
