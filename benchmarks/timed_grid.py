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
import threading
import time
from typing import Any

STARTED = time.perf_counter()

import analysis  # noqa: E402
from sweeps import lth_grid  # noqa: E402
from sweeps.cli import job  # noqa: E402
from sweeps.experiments import experiment  # noqa: E402
from sweeps.runs.ledger import Ledger  # noqa: E402

STEPS = {
    "expand": (experiment, "expand"), "plan": (lth_grid, "make_plan"), "take_stock": (Ledger, "take_stock"),
    "write_plan": (Ledger, "write_plan"), "stored": (Ledger, "stored"), "record": (Ledger, "record"),
    "launch": (job, "launch"), "gather": (analysis, "gather"),
}  # fmt: skip


def main() -> int:
    """Run the command with the clocks on; returns its exit code."""
    clocks = {step: Clock(owner, name) for step, (owner, name) in STEPS.items()}
    code = lth_grid.main(sys.argv[1:])
    seconds = {step: clock.seconds for step, clock in clocks.items() if clock.calls}
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({
        "code": code, "seconds": {**seconds, "command": time.perf_counter() - STARTED},
        "calls": {step: clocks[step].calls for step in seconds},
        "driver_cpu_s": used.ru_utime + used.ru_stime, "driver_rss_mb": used.ru_maxrss / 1024,
    }), flush=True)  # fmt: skip
    return code


class Clock:
    """Runs while a function is at work, in whatever number of threads."""

    def __init__(self, owner: Any, name: str) -> None:
        self.seconds, self.calls, self.at_work, self.since = 0.0, 0, 0, 0.0
        self.function, self.lock = getattr(owner, name), threading.Lock()
        setattr(owner, name, functools.wraps(self.function)(lambda *args, **named: self.timed(*args, **named)))

    def timed(self, *args: Any, **named: Any) -> Any:
        with self.lock:
            self.since = self.since if self.at_work else time.perf_counter()
            self.at_work += 1
        try:
            return self.function(*args, **named)
        finally:
            with self.lock:
                self.at_work -= 1
                self.calls += 1
                self.seconds += 0.0 if self.at_work else time.perf_counter() - self.since


if __name__ == "__main__":
    sys.exit(main())
