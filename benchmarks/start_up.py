"""Seconds from the command to the first training step of its workers, and what importing takes of them.

    python benchmarks/start_up.py [--workers 2] [--repeats 3]

Prints one JSON object. Each repeat is a sweep of its own, with its own Ray and its own folder. Run it on an idle
machine. The exit code is 1 if the first step of any worker is later than the target: 6 s for up to 2 workers, 12 s for
more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EPOCHS = 300  # several seconds of training
LOOK_SECONDS = 0.05
IMPORTS = {
    "driver": "sweeps.lth_grid, sweeps.running.launch, ray.tune",
    "worker": "ray.tune, sweeps.running.worker, lth_trainable.trainable, lth_trainable.training.run",
    "torch": "torch",
}


def main() -> int:
    """Start sweeps one after another; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    load, target = os.getloadavg()[0], 6.0 if options.workers <= 2 else 12.0
    imports = {name: importing(modules) for name, modules in IMPORTS.items()}
    found = [first_steps(options.workers) for _ in range(options.repeats)]
    firsts, lasts = [min(steps) for steps in found], [max(steps) for steps in found]
    print(json.dumps({
        "cores": os.cpu_count(), "load_before": load, "workers": options.workers, "n": options.repeats,
        "seconds_to_first_step": {
            "of_the_first_worker": round(statistics.median(firsts), 2),
            "of_all_workers": round(statistics.median(lasts), 2),
            "range": [round(min(firsts), 2), round(max(lasts), 2)],
        },
        "importing": imports, "target": target, "meets_target": statistics.median(lasts) <= target,
    }, indent=1))  # fmt: skip
    return 0 if statistics.median(lasts) <= target else 1


def importing(modules: str) -> dict[str, Any]:
    """What a new process needs to import these modules: wall and CPU seconds, and how many modules there are then."""
    code = (
        "import json, sys, time; wall, cpu = time.perf_counter(), time.process_time()\n"
        f"import {modules}\n"
        "print(json.dumps({'wall_s': round(time.perf_counter() - wall, 2), "
        "'cpu_s': round(time.process_time() - cpu, 2), 'modules': len(sys.modules)}))"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, check=True).stdout
    found: dict[str, Any] = json.loads(out)
    return found


def first_steps(workers: int) -> list[float]:
    """Seconds from the command to the first step of each of its workers.

    A worker stores the initial weights of its first trial just before the first step. Trials are long, so the first
    states in the storage are these.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "sweeps.lth_grid", "digits", "--seeds", str(workers), "--sparsity", "20",
            "--rewind-epoch", "0", "--epochs", str(EPOCHS), "--controls", "none", "--baselines", "none",
            "--storage", folder, "--max-concurrent", str(workers),
        ]  # fmt: skip
        began, found = time.monotonic(), dict[Path, float]()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and len(found) < workers:
                for file in Path(folder, "states").glob("**/*.safetensors"):
                    found.setdefault(file.parent, time.monotonic() - began)
                time.sleep(LOOK_SECONDS)
        if process.returncode or len(found) < workers:
            raise SystemExit(f"the sweep ended with exit code {process.returncode} and {len(found)} initial states")
        return sorted(found.values())[:workers]


if __name__ == "__main__":
    sys.exit(main())
