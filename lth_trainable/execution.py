"""Where and how a trial runs: not its identity, but part of what its bytes depend on."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where and how a trial runs; none of it is part of its identity.

    data_root: folder of data sets that read files. device: a torch device. threads: CPU threads of one trial;
    results are equal bit for bit only for an equal number.
    """

    data_root: Path | None = None
    device: str = "cpu"
    threads: int = 1


def fingerprint(execution: Execution) -> dict[str, Any]:
    """What may change the bytes of a result without being part of the trial: only equal ones are compared or reused."""
    return {
        "code": version("lottery-sweep"),
        "torch": torch.__version__,
        "device": _device_model(torch.device(execution.device)),
        "threads": execution.threads,
        "deterministic": execution.device == "cpu",
    }


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("lottery-sweep", "torch", "fastai", "ray", "numpy", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _device_model(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
