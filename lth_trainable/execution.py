"""Where and how a trial runs: not its identity, but part of what its bytes depend on."""

from __future__ import annotations

import os
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
    results are equal bit for bit only for an equal number. deterministic: only kernels with reproducible bytes; on a
    CPU they all are.
    """

    data_root: Path | None = None
    device: str = "cpu"
    threads: int = 1
    deterministic: bool = False


def prepare(execution: Execution) -> None:
    """Set this process up for trials of this execution."""
    torch.set_num_threads(execution.threads)
    if torch.device(execution.device).type == "cuda":
        if execution.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first cuBLAS handle is made
        torch.use_deterministic_algorithms(execution.deterministic)
        torch.backends.cudnn.deterministic = execution.deterministic
        torch.backends.cudnn.benchmark = False


def fingerprint(execution: Execution) -> dict[str, Any]:
    """What may change the bytes of a result without being part of the trial: only equal ones are compared or reused."""
    return {
        "code": version("lottery-sweep"),
        "torch": torch.__version__,
        "device": _device_model(torch.device(execution.device)),
        "threads": execution.threads,
        "deterministic": execution.deterministic or execution.device == "cpu",
    }


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("lottery-sweep", "torch", "fastai", "ray", "numpy", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _device_model(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
