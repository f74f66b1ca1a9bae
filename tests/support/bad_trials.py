"""Networks that go wrong in every way that is known, in the middle of training.

The network `tests.support.bad_trials:with_DEED` is `tiny_cnn` until it is pruned. At its third step after that it does
what the function DEED does. So its dense baseline is trained, and its tickets fail.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from lth_trainable.data.datasets import load_dataset
from tests.plugins import tiny_cnn

STEP = 3
ESCAPES = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \r\n\n second line"


class Broken(Exception):
    """Its message and its attributes cannot be read."""

    def __str__(self) -> str:
        raise ValueError("no message")

    __repr__ = __str__


class Unpicklable(Exception):
    """It holds what cannot be pickled, and asks for arguments that a copy does not give."""

    def __init__(self, text: str, held: Any) -> None:
        super().__init__(text)
        self.held = held


def error() -> NoReturn:
    raise ValueError("expected 1 channel")


def leave_0() -> NoReturn:
    sys.exit(0)


def leave_3() -> NoReturn:
    sys.exit(3)


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


def stop_iteration() -> NoReturn:
    raise StopIteration


def broken_message() -> NoReturn:
    raise Broken


def unpicklable() -> NoReturn:
    raise Unpicklable("holds a lock", torch.Generator()) from Broken()


def escapes() -> NoReturn:
    raise RuntimeError(ESCAPES)


def endless_message() -> NoReturn:
    raise RuntimeError("x" * 10_000_000)


def recursion() -> None:
    recursion()


def memory() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def python_memory() -> None:
    bytearray(1 << 62)


def device_assert() -> NoReturn:
    raise RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA` to enable ...")


def gpu_memory() -> None:
    torch.empty(1 << 60, dtype=torch.uint8, device="cuda")


def gpu_assert() -> None:
    """An index that is out of range. From then on this process can no longer use the GPU."""
    torch.zeros(1, device="cuda")[torch.full((1,), 5, device="cuda")].sum().item()


def warnings_as_errors() -> None:
    warnings.simplefilter("error")
    warnings.warn("this is now an error", stacklevel=1)


def segfault() -> None:
    ctypes.string_at(0)


def leave_at_once() -> None:
    os._exit(5)


def killed() -> None:
    """As the kernel does where memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(3600)


def stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def infinite_on_one_image(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """A sound network but for the first image of the test split of digits, which it meets after its training."""

    class Infinite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.image = tiny_cnn(shape, n_classes), torch.from_numpy(load_dataset("digits").test.x[0])

        def forward(self, x: Tensor) -> Tensor:
            same = (x == self.image.to(x)).flatten(1).all(1)
            return torch.where(same[:, None], torch.inf, self.network(x))

    return Infinite()


def hanging_once(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """A network that hangs in the first attempt at a ticket; the file that HUNG names says that it has."""

    def deed() -> None:
        said = Path(os.environ["HUNG"])
        if not said.exists():
            said.touch()
            hang()

    return _Misbehaving(tiny_cnn(shape, n_classes), deed)


DEEDS: dict[str, Callable[[], Any]] = {
    deed.__name__: deed
    for deed in (
        error, leave_0, leave_3, interrupt, stop_iteration, broken_message, unpicklable, escapes, endless_message,
        recursion, memory, python_memory, device_assert, gpu_memory, gpu_assert,
        warnings_as_errors, segfault, leave_at_once, killed, hang,
        stopped,
    )
}  # fmt: skip


class _Misbehaving(nn.Module):
    def __init__(self, network: nn.Module, deed: Callable[[], Any]) -> None:
        super().__init__()
        self.network, self.deed, self.steps = network, deed, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training and bool((self.network.get_parameter("0.weight") == 0).any()):
            self.steps += 1
            if self.steps == STEP:
                self.deed()
        return self.network(x)


def __getattr__(name: str) -> Callable[..., nn.Module]:
    """The network `with_DEED`."""
    deed = DEEDS.get(name.removeprefix("with_"))
    if deed is None:
        raise AttributeError(name)
    return lambda shape, n_classes: _Misbehaving(tiny_cnn(shape, n_classes), deed)
