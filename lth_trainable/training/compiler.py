"""Whether PyTorch's compiler can be used here, and whether it pays. Does not import torch."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

from lth_trainable.errors import UserError

PAYS_FROM = 50_000  # updates of a trial; four of ResNet-20 win back a compilation, which all share (docs/log.md)
C_COMPILERS = ("gcc", "clang", "cc")


def check_compiler(device: str) -> None:
    """Raise `UserError` if this machine lacks what `torch.compile` needs for a device such as "cpu" or "cuda"."""
    found = _missing_on_gpu() if device.partition(":")[0] == "cuda" else _missing_on_cpu()
    if found is not None:
        raise UserError(f"compile: {found}, which torch.compile needs; install it, or leave out --compile")


def _missing_on_cpu() -> str | None:
    compiler = os.environ.get("CXX", "g++")
    return None if shutil.which(compiler) else f"found no C++ compiler ({compiler}); expected one"


def _missing_on_gpu() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "found no package triton; expected the one of this PyTorch"
    compilers = [os.environ["CC"]] if "CC" in os.environ else C_COMPILERS
    if not any(map(shutil.which, compilers)):
        return f"found no C compiler ({', '.join(compilers)}); expected one"
    headers = Path(sysconfig.get_path("include"))
    return None if (headers / "Python.h").exists() else f"found no Python.h in {headers}; expected Python's headers"
