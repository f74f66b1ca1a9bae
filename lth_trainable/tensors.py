"""Tensors by name, as they go into files and come out of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def row_major(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU in row-major order, each in memory of its own.

    safetensors refuses tensors that share memory, as tied weights do.
    """
    import torch

    return {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names are `<prefix>/<name>`, by `<name>`."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
