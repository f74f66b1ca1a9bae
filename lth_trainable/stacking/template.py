"""The network that a stack is made from: one of its shape, with weights that are those of no member.

Whether networks can be stacked is tried with it. With a member's own weights, that could depend on which member is the
first of its cohort, and so could the bytes of the others.
"""

from __future__ import annotations

import torch
from torch import nn

from lth_trainable.data.loaders import ResidentLoader
from lth_trainable.models.networks import build
from lth_trainable.seeds import derive_seed
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stacking.probe import hidden_in, is_same
from lth_trainable.stacking.run import NotStackable
from lth_trainable.streams import all_streams_put_back, seed_all


def template_of(spec: TrialSpec, loader: ResidentLoader) -> nn.Module:
    """A new network of this trial's shape, on the loader's device and in its memory format; the same for all seeds.

    Raises `NotStackable` if networks of different seeds differ in more than parameters and buffers: a stack has
    everything else once.
    """
    with all_streams_put_back():
        template, other = (_built(spec, loader, number) for number in (0, 1))
    ours, theirs = _form(template), _form(other)
    differ = [name for name in {**ours, **theirs} if not is_same(ours.get(name), theirs.get(name))]
    if differ:
        raise NotStackable(
            f"networks of different seeds differ in {', '.join(differ[:3])}, which is neither a parameter nor a buffer"
        )
    template.to(loader.device)
    return template.to(memory_format=torch.channels_last) if loader.channels_last else template


def _built(spec: TrialSpec, loader: ResidentLoader, number: int) -> nn.Module:
    seed_all(derive_seed(number, "stack"))
    _, channels, height, width = loader.x.shape
    return build(spec.model, (channels, height, width), loader.c, spec.width_pct)


def _form(network: nn.Module) -> dict[str, object]:
    """Everything but the values of parameters and buffers."""
    shapes = {name: tuple(value.shape) for name, value in (*network.named_parameters(), *network.named_buffers())}
    return {**hidden_in(network), **{f"the shape of {name}": shape for name, shape in shapes.items()}}
