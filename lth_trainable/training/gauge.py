"""What a trial that has a GPU for itself uses of it, for the number of trials that can share one."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from typing import Any

import torch

SMI = "nvidia-smi"
QUERY = ("--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")
PERIOD_MS = 250
MOST_CONTEXT = 2**30  # bytes; what goes beyond is another program's


class Gauge:
    """Measures from its making to `close`. The busy time comes from `nvidia-smi`; without that it is not known."""

    def __init__(self) -> None:
        self._busy: list[float] = []
        self._since = time.monotonic()
        self._meter: subprocess.Popen[str] | None = None
        identity = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        with contextlib.suppress(OSError):  # there is no such program
            self._meter = subprocess.Popen(
                [SMI, "-i", identity, *QUERY, "-lms", str(PERIOD_MS)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            threading.Thread(target=self._read, daemon=True, name="nvidia-smi").start()

    def _read(self) -> None:
        assert self._meter is not None and self._meter.stdout is not None
        for line in self._meter.stdout:
            with contextlib.suppress(ValueError):  # "[N/A]"
                self._busy.append(float(line) / 100)

    def now(self) -> dict[str, Any]:
        """The fields of `sweeps.running.measured.Sample`, and for how many `seconds` it has measured."""
        free, total = torch.cuda.mem_get_info()
        reserved = torch.cuda.memory_reserved()
        context = min(max(total - free - reserved, 0), MOST_CONTEXT)
        busy = list(self._busy)
        return {
            "peak_bytes": torch.cuda.max_memory_reserved(), "context_bytes": context,
            "usable_bytes": free + reserved + context, "total_bytes": total,
            "busy": sum(busy) / len(busy) if busy else None,
            "seconds": time.monotonic() - self._since,
        }  # fmt: skip

    def close(self) -> None:
        """End the measurement."""
        if self._meter is not None:
            self._meter.kill()
            self._meter.wait()
