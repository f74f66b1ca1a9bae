"""What else a result may depend on, for the record alone: it is no part of the fingerprint."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import torch

DRIVER = Path("/proc/driver/nvidia/version")


@functools.cache
def driver_version(path: Path = DRIVER) -> str | None:
    """Version of the GPU's driver, as its kernel module tells it; None where it does not."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    return found[1] if found else None


def gpu_versions() -> dict[str, str]:
    """CUDA of torch, cuDNN and driver, in a process that uses a GPU; what is not known is left out."""
    if not torch.cuda.is_initialized():
        return {}
    found = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": driver_version()}
    return {name: str(value) for name, value in found.items() if value is not None}
