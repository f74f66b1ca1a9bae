"""How a trial shares its GPU with others: how much of its memory it may use, and what its record says about the GPU."""

from __future__ import annotations

import contextlib
import ctypes
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.training.compiled import cannot_compile, is_compile_error
from lth_trainable.training.execution import Execution, is_no_room, no_room, prepared, release
from lth_trainable.training.gpu_memory import fraction_of

_CUDA = "libcuda.so.1"
_MPS_ENABLED = 133  # CU_DEVICE_ATTRIBUTE_MPS_ENABLED in cuda.h; an older driver refuses it


@contextlib.contextmanager
def memory_bounded(execution: Execution) -> Iterator[None]:
    """Within this block, this process may use its share of the GPU's memory only.

    Beyond it, PyTorch raises `OutOfMemoryError`, so a trial that needs more cannot take the memory of the others. The
    peak of its memory is measured from here on.
    """
    device = torch.device(execution.device)
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            torch.cuda.init()  # a process that has not used it has no statistics
            torch.cuda.reset_peak_memory_stats(device)
            if execution.trials_on_gpu > 1:
                total = torch.cuda.get_device_properties(device).total_memory
                stack.callback(torch.cuda.set_per_process_memory_fraction, 1.0, device.index)
                torch.cuda.set_per_process_memory_fraction(fraction_of(execution.trials_on_gpu, total), device.index)
        yield


@contextlib.contextmanager
def in_bounds(execution: Execution, spec: TrialSpec) -> Iterator[None]:
    """In this block a network is trained: with a trial's settings of torch, and within its share of the GPU's memory.

    Afterwards settings are as before, and GPU memory is free again, except that of the data. Raises `UserError` if the
    process does not have the device or the precision, if the memory is too small, or if the network cannot be compiled
    and is to be.
    """
    try:
        with no_room_told(execution, spec), prepared(execution, spec.precision), memory_bounded(execution):
            yield
    finally:
        release(execution)


@contextlib.contextmanager
def no_room_told(execution: Execution, spec: TrialSpec) -> Iterator[None]:
    """Turn an error of torch for want of memory into a `UserError`."""
    try:
        yield
    except Exception as error:
        if execution.compile and is_compile_error(error) and not is_no_room(error):
            raise cannot_compile(error, spec.name, spec.model) from error
        if not is_no_room(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they keep the network and its data in memory
        raise no_room(execution, spec.name) from error


def about_gpu(execution: Execution) -> dict[str, Any] | None:
    """How the trial that has just been trained shared its GPU; None on a CPU.

    trials_on_gpu: that shared it. mps: whether NVIDIA's MPS was in force; None if the driver does not say.
    peak_bytes: the most memory that PyTorch had reserved. total_bytes: the memory of the GPU.
    """
    device = torch.device(execution.device)
    if device.type != "cuda" or not torch.cuda.is_initialized():
        return None
    return {
        "trials_on_gpu": execution.trials_on_gpu, "mps": mps_is_in_force(),
        "peak_bytes": torch.cuda.max_memory_reserved(device),
        "total_bytes": torch.cuda.get_device_properties(device).total_memory,
    }  # fmt: skip


def mps_is_in_force() -> bool | None:
    """Whether this process uses its GPU through MPS; None if the driver does not say."""
    try:
        cuda = ctypes.CDLL(_CUDA)
    except OSError:  # no driver
        return None
    device, value = ctypes.c_int(), ctypes.c_int()
    if cuda.cuCtxGetDevice(ctypes.byref(device)):
        return None
    failed = cuda.cuDeviceGetAttribute(ctypes.byref(value), _MPS_ENABLED, device)
    return None if failed else bool(value.value)
