"""The fingerprint of this machine's CPU without torch, for a plan that is only shown: torch takes half a gigabyte.

Only `execution.fingerprint` is sure of it, and whatever trains, records or compares asks that one. This one gives None
where only torch knows: for a GPU, another processor than x86-64, another system than Linux.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from lth_trainable.nvidia import about_torch
from lth_trainable.versions import project_version

_AVX2 = frozenset(("avx2", "fma"))
_AVX512 = frozenset(("avx512vl", "avx512bw", "avx512dq", "fma"))


def fingerprint_without_torch(
    device: str,
    threads: int,
    cpuinfo: Path = Path("/proc/cpuinfo"),
    torch: Path | None = None,
    *,
    replicas: int = 1,
    compiled: bool = False,
) -> dict[str, Any] | None:
    """What `fingerprint` most likely says of this machine; None if it cannot be told without torch.

    cpuinfo: Linux's list of processors. torch: folder of the package, found if None.
    """
    known = device == "cpu" and platform.machine() == "x86_64" and "ATEN_CPU_CAPABILITY" not in os.environ
    version = torch_version(torch) if known else None
    flags = _flags(cpuinfo) if known else None
    if version is None or flags is None:
        return None
    capability = "AVX512" if flags >= _AVX512 else "AVX2" if flags >= _AVX2 else "DEFAULT"
    return {
        "code": project_version(), "torch": version, "device": f"cpu: x86_64 {capability}", "threads": threads,
        "deterministic": True, **({"replicas": replicas} if replicas > 1 else {}),
        **({"compiled": True} if compiled else {}),
    }  # fmt: skip


def torch_version(folder: Path | None = None) -> str | None:
    """`torch.__version__`, read from the package's files; None if it is not found. folder: see `about_torch`."""
    text = about_torch(folder)
    found = None if text is None else re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE)
    return found[1] if found else None


def _flags(cpuinfo: Path) -> frozenset[str] | None:
    """The instruction sets of the first processor; None if the system does not list them."""
    if not cpuinfo.is_file():
        return None
    found = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return frozenset(found[1].split()) if found else None
