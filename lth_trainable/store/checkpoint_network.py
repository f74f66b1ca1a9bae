"""Makes the network of a checkpoint of Ray Tune."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.torch import load
from torch import nn

from lth_trainable.errors import UserError
from lth_trainable.models.networks import build
from lth_trainable.safe_text import one_line
from lth_trainable.spec.trial_spec import spec_from_dict
from lth_trainable.store.checkpoint import read_masks, read_weights
from lth_trainable.store.layout import ODD
from lth_trainable.store.level_masks import unpack_levels


def network_of(folder: str | Path, about: Mapping[str, Any], which: str) -> nn.Module:
    """The network of a checkpoint under its last mask. about: its `checkpoint.json`. Raises `UserError`."""
    weights, masks = read_weights(folder, about, which), read_masks(folder, about)
    spec, data = spec_from_dict(about["spec"]), about["data"]
    try:
        with torch.random.fork_rng():
            model = build(spec.model, tuple(data["shape"]), data["n_classes"], spec.width_pct)
        model.load_state_dict(load(weights))
        shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
        levels = unpack_levels(load_arrays(masks), shapes) if masks is not None else {}
        for name, mask in levels.get(max(levels, default=0), {}).items():
            model.get_parameter(name).data.mul_(torch.from_numpy(mask))
    except UserError:
        raise
    except (SafetensorError, RuntimeError, *ODD) as error:  # what torch raises for other names and shapes
        raise UserError(f"{folder}: found files that are not of its network ({one_line(error)[:300]})") from error
    return model.eval()
