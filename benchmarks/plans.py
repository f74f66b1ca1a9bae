"""How long a command takes before and after the training of very many trials: dry runs, the listing, the command again.

    python benchmarks/plans.py [dry] [draw] [status] [again] [--run DIR] [--seeds 375] [--root DIR]

dry: a dry run of 3,016 trials of `digits` in an empty storage. draw: 30,160 trials, planned and drawn. status and again
need a finished run of `scale_tiny:ladders` (80 trials a seed, 375 seeds are 30,000), which `--run` names: its path is
STORAGE/NAME. Make it with

    PYTHONPATH=.:benchmarks python -m sweeps.lth_grid scale_tiny:ladders --seeds 375 --storage STORAGE --name NAME

again is the same command once more. The first time it reads what the last command has written; what is reported is the
second time. --root: a checkout whose code is measured instead of this one, for figures before and after. Prints one
JSON object: wall seconds, CPU seconds, and the peak memory of the largest process, with their targets.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LADDER = [f"{round(100 * (1 - 0.8**level), 4):g}" for level in range(1, 15)]
GRID = ("digits", "--prune-rate", "20", "--sparsity", *LADDER, "--rewind-epoch", "0", "1")  # 29 trials a seed
TARGETS: dict[str, dict[str, float]] = {
    "dry": {"seconds": 10, "peak_mb": 400}, "draw": {"seconds": 60}, "status": {"seconds": 10},
    "again": {"seconds": 30, "peak_mb": 1500},
}  # fmt: skip


def main() -> None:
    """Measure the parts asked for, and print the JSON object."""
    options = parse()
    found: dict[str, Any] = {"cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2)}
    with tempfile.TemporaryDirectory(prefix="plans_") as folder:
        commands = commands_of(Path(folder), options)
        for part in options.parts:
            if part == "again":
                measure(commands[part], options.root)
            figures = measure(commands[part], options.root)
            met = all(figures[name] <= most for name, most in TARGETS[part].items())
            found[part] = {**figures, "target": TARGETS[part], "meets_target": met}
    print(json.dumps(found, indent=1))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(TARGETS))
    parser.add_argument("--run", type=Path, help="a finished run of scale_tiny:ladders")
    parser.add_argument("--seeds", type=int, default=375, help="of that run")
    parser.add_argument("--root", type=Path, default=HERE.parent, help="checkout to measure")
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - set(TARGETS))
    if unknown:
        parser.error(f"found {', '.join(unknown)}; expected parts among {', '.join(TARGETS)}")
    options.parts = options.parts or ["dry", "draw", *(["status", "again"] if options.run else [])]
    if options.run is None and {"status", "again"} & set(options.parts):
        parser.error("status and again need --run")
    return options


def commands_of(folder: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """The command of each part, without Python."""
    dry = ["-m", "sweeps.lth_grid", *GRID, "--storage", str(folder / "empty"), "--dry-run"]
    commands = {
        "dry": [*dry, "--seeds", "104"],
        "draw": [*dry, "--seeds", "1040", "--plan-figure", str(folder / "plan.svg")],
    }
    if options.run is not None:
        storage, name = str(options.run.parent), options.run.name
        ladders = ["scale_tiny:ladders", "--seeds", str(options.seeds), "--storage", storage, "--name", name]
        commands["status"] = ["-m", "sweeps.status", str(options.run)]
        commands["again"] = ["-m", "sweeps.lth_grid", *ladders]
    return commands


def measure(command: list[str], root: Path) -> dict[str, float]:
    """Run a command with the code of a checkout. peak_mb: of the largest of its processes."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(root.resolve()), str(HERE)))}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, env=environment, cwd=root.resolve()
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with code {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": round(time.perf_counter() - started, 1), "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": round(used.ru_maxrss / 1024),
    }  # fmt: skip


if __name__ == "__main__":
    main()
