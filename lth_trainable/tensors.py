"""Tensors by name, as they go into files and come out of them; and many multiplied or copied at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def row_major(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU in row-major order, each in memory of its own.

    safetensors refuses tensors that share memory, as tied weights do.
    """
    import torch

    order = torch.contiguous_format
    return {name: t.detach().to("cpu", copy=True, memory_format=order) for name, t in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names are `<prefix>/<name>`, by `<name>`."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def multiply(tensors: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    """Each tensor times its factor, in place.

    PyTorch multiplies them in one call, which spares a GPU a kernel for each. The name of that is not public; where a
    version does not have it, one after the other gives the same bytes.
    """
    import torch

    if hasattr(torch, "_foreach_mul_"):
        torch._foreach_mul_(list(tensors), list(factors))
        return
    for tensor, factor in zip(tensors, factors, strict=True):
        tensor.mul_(factor)


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target, those of one type in one call where PyTorch has it, as in `multiply`."""
    import torch

    if not hasattr(torch, "_foreach_copy_"):
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)
        return
    by_type: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        into, out_of = by_type.setdefault(target.dtype, ([], []))
        into.append(target)
        out_of.append(source)
    for into, out_of in by_type.values():
        torch._foreach_copy_(into, out_of)
