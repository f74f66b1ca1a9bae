"""What stacked training uses of PyTorch without its being public."""

from __future__ import annotations

import torch
from torch import Tensor


def split_channels(x: Tensor, k: int) -> Tensor:
    """(n, k * c, ...) as (n, k, c, ...), in the same memory. x: a tensor that nothing else uses.

    Where PyTorch has the operation, the result is no view for its bookkeeping of gradients. Changing a view in place,
    as `nn.ReLU(inplace=True)` does, would cost three copies of the gradient.
    """
    shape = (x.shape[0], k, x.shape[1] // k, *x.shape[2:])
    found: Tensor = torch.ops.aten._unsafe_view(x, shape) if hasattr(torch.ops.aten, "_unsafe_view") else x.view(shape)
    return found
