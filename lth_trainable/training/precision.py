"""Floating-point precision: what a trial's matrix products and convolutions are computed in.

    fp32   IEEE single precision on every device
    tf32   inputs rounded to 10 bits of mantissa; NVIDIA GPUs from the A100 on
    bf16   autocast to bfloat16, losses in fp32
    fp16   autocast to float16, losses in fp32, and a loss scale that follows the gradients (torch's GradScaler)

Weights, the optimiser's state and masks are fp32 in all of them (Micikevicius et al., arXiv 1710.03740, sec. 3).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from fastai.callback.core import Callback
from torch import Tensor

from lth_trainable.errors import UserError

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """Raise `UserError` if a device does not have this precision."""
    if device.type == "cuda":
        if precision in ("tf32", "bf16") and torch.cuda.get_device_capability(device) < (8, 0):
            raise UserError(
                f"precision {precision}: found {torch.cuda.get_device_name(device)}; expected an NVIDIA GPU from the "
                "A100 on (compute capability 8.0); use --precision fp32 or fp16"
            )
    elif precision in ("tf32", "fp16"):
        raise UserError(
            f"precision {precision}: found the device {device.type}; expected an NVIDIA GPU (--gpus-per-trial); a CPU "
            "trains in fp32 or bf16"
        )


@contextlib.contextmanager
def tensor_float(precision: str) -> Iterator[None]:
    """Let GPUs round the inputs of fp32 products to TF32 if, and only if, the precision says so; afterwards as before.

    PyTorch's default is TF32 for convolutions and fp32 for matrix products.
    """
    put_back = _settings_now()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        put_back()


def _settings_now() -> Callable[[], None]:
    """Returns what puts torch's present settings back. PyTorch lets a process use its old names for them or the new."""
    matmul, cudnn = torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn)
    try:
        old = matmul.allow_tf32, cudnn.allow_tf32

        def with_old_names() -> None:
            matmul.allow_tf32, cudnn.allow_tf32 = old
    except RuntimeError:  # the user has set them by their new names; the old ones cannot be read then
        new = matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision

        def with_new_names() -> None:
            matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = new

        return with_new_names
    return with_old_names


class Autocast(Callback):
    """Computes the forward pass and the loss of each step in bf16 or fp16, and scales the loss if it is fp16.

    `forward()` surrounds a step; the loss ends it, so the backward pass has the types of the forward pass. Outputs are
    fp32 for the loss and for whoever reads them.
    """

    order = 10

    def __init__(self, precision: str, device: torch.device) -> None:
        self.device, self.dtype = device, AUTOCAST[precision]
        self.scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
        self._open = contextlib.ExitStack()

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Autocast until the block ends, or until the loss of a step is there."""
        with self._open:
            self._open.enter_context(torch.autocast(self.device.type, self.dtype))
            yield

    def after_pred(self) -> None:
        self.learn.pred = self.learn.pred.float()

    def after_loss(self) -> None:
        self._open.close()

    def before_backward(self) -> None:
        if self.scaler is not None:
            self.learn.loss_grad = self.scaler.scale(self.learn.loss_grad)

    def output(self, model: Any, x: Tensor) -> Tensor:
        """The network's output for a batch, in fp32."""
        with self.forward():
            found: Tensor = model(x)
        return found.float()
