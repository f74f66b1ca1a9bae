"""The functions of networks for K members at once: what `torch.func.vmap` calls in place of torch's own rules.

vmap alone would do. Its rules, however, apply the scales of a norm in passes of their own, move the members from the
channels to the batch for pooling, and transpose gradients of dense layers; each of these copies whole activations or
weights. Here activations of convolutions stay (n, k * c, h, w), which is what grouped convolutions and norms want.
Whatever is not here has vmap's rule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from lth_trainable.stacking.dropout import SeededDropout
from lth_trainable.stacking.torch_adapter import split_channels


class StackedFunctions(SeededDropout):
    """Within it, and within a vmap, the functions of this module stand for those of torch."""

    def handler(self, func: Callable[..., Any]) -> Callable[..., Any] | None:
        own = _OWN.get(func)
        return super().handler(func) if own is None else own


class _Stacked(Function):
    """A function of tensors with a rule of its own for a stack. Gradients are those of what the rule calls."""

    @staticmethod
    def forward(own: Any, *args: Any) -> Any:
        """Without a member in any argument: torch's function."""
        return own.plain(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def vmap(info: Any, in_dims: Any, own: Any, *args: Any) -> Any:
        found = own.rule(info.batch_size, in_dims[1:], *args)
        if found is not None:
            return found
        again = torch.func.vmap(own.plain, in_dims=in_dims[1:], randomness=info.randomness)
        return again(*args), 0


class _Own:
    """A function, and its rule for K members: rule(k, axes of the members, *args) -> result and its axis; None: vmap's.

    Arguments that are not tensors have no axis.
    """

    def __init__(self, plain: Callable[..., Any], rule: Callable[..., tuple[Tensor, int] | None]) -> None:
        self.plain, self.rule = plain, rule

    def __call__(self, *args: Any) -> Any:
        return _Stacked.apply(self, *args)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Products (k, out, in) x (k, in, n): gradients of the weights then come as the weights lie."""
    found: Tensor = _LINEAR(input, weight, bias)
    return found


def _linear(k: int, axes: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, int] | None:
    if axes[0] is None or axes[1] is None or weight.ndim != 3 or x.ndim < 3 or (bias is not None and axes[2] is None):
        return None
    weight, x = weight.movedim(axes[1], 0), x.movedim(axes[0], 0)
    columns = x.reshape(k, -1, x.shape[-1]).transpose(1, 2)
    if bias is None:
        found = torch.bmm(weight, columns)
    else:
        found = torch.baddbmm(bias.movedim(axes[2], 0).unsqueeze(2), weight, columns)
    rows = found.transpose(1, 2)
    return (rows if x.ndim == 3 else rows.reshape(*x.shape[:-1], -1)), 0


_LINEAR = _Own(F.linear, _linear)


def _convolution(
    plain: Callable[..., Tensor], k: int, axes: Any, x: Tensor, weight: Tensor, bias: Any, *rest: Any
) -> tuple[Tensor, int] | None:
    """A convolution with k times the groups. rest: its other arguments; the number of groups is the fourth."""
    if axes[0] is None or axes[1] is None or x.ndim != weight.ndim or (bias is not None and axes[2] is None):
        return None
    together = plain(
        joined(x, axes[0], 1), joined(weight, axes[1], 0), None if bias is None else joined(bias, axes[2], 0),
        *rest[:3], rest[3] * k, *rest[4:],
    )  # fmt: skip
    return split_channels(together, k), 1


def _convolution_of(plain: Callable[..., Tensor], transposed: bool) -> Callable[..., Tensor]:
    own = _Own(plain, functools.partial(_convolution, plain))

    def forward(
        input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Tensor:  # fmt: skip
        found: Tensor = own(input, weight, bias, stride, padding, dilation, groups)
        return found

    def backward(
        input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
        output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
    ) -> Tensor:  # fmt: skip
        found: Tensor = own(input, weight, bias, stride, padding, output_padding, groups, dilation)
        return found

    return backward if transposed else forward


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """One norm of k * c channels. The running statistics change in place, each member's own."""
    found: Tensor = _BATCH_NORM(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return found


def _batch_norm(
    k: int, axes: Any, x: Tensor, mean: Any, var: Any, weight: Any, bias: Any, *rest: Any
) -> tuple[Tensor, int] | None:
    of_channels = [(value, axis) for value, axis in zip((mean, var, weight, bias), axes[1:5], strict=True)]
    if axes[0] is None or any(value is not None and (axis is None or value.ndim != 2) for value, axis in of_channels):
        return None
    if any(value is not None and not value.movedim(axis, 0).is_contiguous() for value, axis in of_channels[:2]):
        return None
    flat: list[Any] = [None if value is None else joined(value, axis, 0) for value, axis in of_channels]
    return split_channels(F.batch_norm(joined(x, axes[0], 1), *flat, *rest), k), 1


_BATCH_NORM = _Own(F.batch_norm, _batch_norm)


def _pooling(plain: Callable[..., Tensor], ndim: int) -> Callable[..., Tensor]:
    """A function of each channel on its own. ndim: axes of its input, with images and channels."""

    def pooled(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(_called, plain, args, kwargs)

        def rule(k: int, axes: Any, x: Tensor) -> tuple[Tensor, int] | None:
            if axes[0] is None or x.ndim != ndim + 1 or kwargs.get("return_indices"):
                return None
            return split_channels(call(joined(x, axes[0], 1)), k), 1

        return _Own(call, rule)(input)

    return pooled


def _called(plain: Callable[..., Any], args: Any, kwargs: Any, x: Tensor) -> Any:
    return plain(x, *args, **kwargs)


def _elementwise(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of each number, on memory as it lies. In place, vmap's rule would change a view of it."""

    def function(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(_called, plain, args, kwargs)
        return _Own(call, lambda k, axes, x: (call(x), axes[0]))(input)

    return function


def add_in_place(input: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
    """`input += other`, on memory as it lies, if it lies in the same way in both."""
    if not isinstance(other, Tensor) or alpha != 1:
        return input.add_(other, alpha=alpha)
    found: Tensor = _ADD(input, other)
    return found


def _add(k: int, axes: Any, x: Tensor, other: Tensor) -> tuple[Tensor, int] | None:
    if axes[0] is None or axes[0] != axes[1] or x.ndim != other.ndim:
        return None
    return x.add_(other), axes[0]


_ADD = _Own(torch.Tensor.add_, _add)


def joined(x: Tensor, axis: int, into: int) -> Tensor:
    """The members of a tensor side by side: their axis in front of axis `into`, and then both as one.

    A copy only if the memory is not laid out so; it then has the memory format of the members.
    """
    return x.movedim(axis, into).flatten(into, into + 1)


_OWN: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: linear,
    F.batch_norm: batch_norm,
    torch.Tensor.add_: add_in_place,
    torch.Tensor.__iadd__: add_in_place,
    **{plain: _convolution_of(plain, False) for plain in (F.conv1d, F.conv2d, F.conv3d)},
    **{plain: _convolution_of(plain, True) for plain in (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)},
    **{
        plain: _elementwise(plain)
        for plain in (
            F.relu,
            F.relu6,
            F.leaky_relu,
            F.elu,
            F.celu,
            F.selu,
            F.silu,
            F.mish,
            F.hardswish,
            F.hardsigmoid,
            F.hardtanh,
            F.threshold,
            torch.relu_,
            torch.Tensor.relu_,
        )
    },
    F.max_pool1d: _pooling(F.max_pool1d, 3),
    F.max_pool2d: _pooling(F.max_pool2d, 4),
    F.max_pool3d: _pooling(F.max_pool3d, 5),
    F.avg_pool1d: _pooling(F.avg_pool1d, 3),
    F.avg_pool2d: _pooling(F.avg_pool2d, 4),
    F.avg_pool3d: _pooling(F.avg_pool3d, 5),
    F.adaptive_avg_pool1d: _pooling(F.adaptive_avg_pool1d, 3),
    F.adaptive_avg_pool2d: _pooling(F.adaptive_avg_pool2d, 4),
    F.adaptive_avg_pool3d: _pooling(F.adaptive_avg_pool3d, 5),
    F.adaptive_max_pool2d: _pooling(F.adaptive_max_pool2d, 4),
}
