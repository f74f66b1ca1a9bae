"""Our side: a command of `sweeps.lth_grid` with clocks around its steps.

    python benchmarks/timed_grid.py RECIPE [--seeds N] ...

Ends standard output with one JSON object: exit code, wall seconds by step and calls of it, and the driver's own CPU
seconds and peak memory.
"""

from __future__ import annotations

import functools
import json
import resource
import sys
import time
from collections import Counter
from typing import Any

STARTED = time.perf_counter()

from sweeps import lth_grid  # noqa: E402
from sweeps.ledger import Ledger  # noqa: E402

STEPS = {
    "expand": (lth_grid, "expand"), "plan": (lth_grid, "make_plan"), "take_stock": (Ledger, "take_stock"),
    "write_plan": (Ledger, "write_plan"), "stored": (Ledger, "stored"), "record": (Ledger, "record"),
    "launch": (lth_grid, "launch"), "gather": (lth_grid, "_conclude"),
}  # fmt: skip


def main() -> int:
    """Run the command with the clocks on; returns its exit code."""
    seconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for step, (owner, name) in STEPS.items():
        setattr(owner, name, timed(getattr(owner, name), step, seconds, calls))
    code = lth_grid.main(sys.argv[1:])
    seconds["command"] = time.perf_counter() - STARTED  # type: ignore[assignment]
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({
        "code": code, "seconds": seconds, "calls": calls, "driver_cpu_s": used.ru_utime + used.ru_stime,
        "driver_rss_mb": used.ru_maxrss / 1024,
    }), flush=True)  # fmt: skip
    return code


def timed(function: Any, step: str, seconds: Any, calls: Any) -> Any:
    """The function, its wall seconds and calls added up under `step`."""

    @functools.wraps(function)
    def with_clock(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds[step] += time.perf_counter() - started
            calls[step] += 1

    return with_clock


if __name__ == "__main__":
    sys.exit(main())
