"""Wall seconds per ticket: the recipe `digits_tutorial` here, and the same grid with Ray Tune, fastai and fasterai.

    python benchmarks/sweep_vs_stock.py [--stock-tickets 8] [--repeat 1]

Both sides run on this machine, one after the other, each a command of its own in a new folder. Ours is the whole
sweep: 40 tickets, and in its wall time also the 10 dense trials, the analysis and the report. The peer
(`stock_sweep.py`) trains a part of the tickets. What it pays once, such as starting Ray, is spread over as many tickets
as ours, as if it had trained the whole grid; the plain quotient is given beside it. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.experiments.expand import expand
from sweeps.experiments.recipes import digits_tutorial

TARGET = 12.0  # times faster per ticket
TOLERANCE_PP = 0.1  # measured sparsity against the target; fasterai keeps one weight more per layer
ROOT = Path(__file__).resolve().parent.parent
PEER = Path(__file__).with_name("stock_sweep.py")
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}  # both sides: no token, no phoning home

Row = dict[str, Any]  # a ticket: target_sparsity_pct, rewind_epoch, seed; sparsity_pct and test_accuracy as measured


def main() -> None:
    """Measure, and print the JSON object."""
    options = parse()
    axes = stock_axes(options.stock_tickets)
    pairs = [measure_pair(axes, number, options.repeat) for number in range(1, options.repeat + 1)]
    print(json.dumps(summary(pairs), indent=2))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stock-tickets", type=int, default=8, help="tickets that the peer trains; a multiple of 4")
    parser.add_argument("--repeat", type=int, default=1, help="pairs of runs")
    options = parser.parse_args()
    if options.repeat < 1:
        parser.error(f"--repeat: found {options.repeat}; expected at least 1")
    if options.stock_tickets not in SUBSETS:
        valid = ", ".join(map(str, SUBSETS))
        parser.error(f"--stock-tickets: found {options.stock_tickets}; expected {valid}")
    return options


# -- the grid ----------------------------------------------------------------------------------------------------------


def recipe_trials() -> tuple[TrialSpec, ...]:
    """All trials of the recipe, dense ones included."""
    return expand(digits_tutorial()).trials


def subsets() -> dict[int, dict[str, Sequence[Any]]]:
    """Axes of the parts of the grid that the peer can train, by number of tickets: every sparsity, first seeds first.

    Rewinding to epoch 0 only, until the seeds are used up: the epoch rewound to costs no time.
    """
    recipe = digits_tutorial()
    sparsities, rewinds = recipe.axes["target_sparsity_pct"], recipe.axes["rewind_epoch"]
    return {
        len(sparsities) * n_rewinds * n_seeds: {
            "sparsity": sparsities, "rewind-epoch": rewinds[:n_rewinds], "seed": recipe.seeds[:n_seeds]
        }
        for n_rewinds, n_seeds in [*product((1,), range(1, len(recipe.seeds) + 1)), (2, 3), (2, 4), (2, 5)]
    }  # fmt: skip


SUBSETS = subsets()


def stock_axes(n_tickets: int) -> list[str]:
    """The peer's arguments for a part of the grid."""
    return [word for name, values in SUBSETS[n_tickets].items() for word in (f"--{name}", *map(str, values))]


# -- one run of each side ----------------------------------------------------------------------------------------------


def measure_pair(axes: list[str], number: int, of: int) -> dict[str, Any]:
    """Run ours, then the peer."""
    with tempfile.TemporaryDirectory(prefix="sweep_vs_stock_") as folder:
        ours, our_rows = measure_ours(Path(folder, "ours"), f"pair {number} of {of}")
        stock, stock_rows = measure_stock(Path(folder, "stock"), axes, ours["tickets"], f"pair {number} of {of}")
    trained = {identity(row) for row in stock_rows}
    ours["same_tickets"] = measured([row for row in our_rows if identity(row) in trained])
    stock["same_tickets"] = measured(stock_rows)
    check_pruned("ours", our_rows)
    check_pruned("stock", stock_rows)
    seconds = ours["wall_s_per_ticket"]
    return {
        "ours": ours,
        "stock": stock,
        "ratio": stock["wall_s_per_ticket"] / seconds,
        "ratio_as_run": stock["wall_s_per_ticket_as_run"] / seconds,
    }


def measure_ours(storage: Path, what: str) -> tuple[dict[str, Any], list[Row]]:
    """The whole sweep, from the start of the command to its end; returns figures and the tickets' results."""
    command = ["-m", "sweeps.lth_grid", "digits_tutorial", "--storage", str(storage), "--json"]
    wall_s, load, last = timed(command, f"{what}: ours")
    run = json.loads(last)
    tickets = [spec for spec in recipe_trials() if not spec.is_dense]
    figures = {
        "wall_s": wall_s,
        "tickets": len(tickets),
        "dense_trials": run["planned"] - len(tickets),
        "epochs_trained": run["epochs_trained"],
        "wall_s_per_ticket": wall_s / len(tickets),
        "wall_counts": "the whole command: start, tickets, dense trials, sealing, analysis, report",
        "load_before": load,
    }
    return figures, [our_row(Path(run["run"]), spec) for spec in tickets]


def our_row(run: Path, spec: TrialSpec) -> Row:
    """What a ticket of ours measured, from its record."""
    record = json.loads(Path(run, "trials", spec.name, "record.json").read_text())
    axes = {name: getattr(spec, name) for name in ("target_sparsity_pct", "rewind_epoch", "seed")}
    return axes | {name: record["result"][name] for name in ("sparsity_pct", "test_accuracy")}


def measure_stock(storage: Path, axes: list[str], whole_grid: int, what: str) -> tuple[dict[str, Any], list[Row]]:
    """The peer's part of the grid; returns figures and the tickets' results."""
    output = storage.with_name("stock.json")
    command = [str(PEER), "--storage", str(storage), "--output", str(output), *axes]
    wall_s, load, _ = timed(command, f"{what}: stock")
    run = json.loads(output.read_text())
    rows, once_s = run["tickets"], wall_s - run["fit_s"]
    per_ticket = run["fit_s"] / len(rows)
    figures = {
        "wall_s": wall_s,
        "tickets": len(rows),
        "processes": len({row["pid"] for row in rows}),
        "wall_s_once": once_s,
        "wall_s_per_ticket_in_fit": per_ticket,
        "wall_s_per_ticket": per_ticket + once_s / whole_grid,
        "wall_s_per_ticket_as_run": wall_s / len(rows),
        "seconds_in_trial_median": statistics.median(row["seconds_in_trial"] for row in rows),
        "wall_counts": f"Tuner.fit per ticket, and start and end of the command spread over {whole_grid} tickets",
        "load_before": load,
    }
    return figures, rows


def timed(command: list[str], what: str) -> tuple[float, float, str]:
    """Run Python with the arguments: wall seconds, the machine's load before, the last line of standard output."""
    load = os.getloadavg()[0]
    print(f"{what} (load {load:.2f}) ...", end=" ", file=sys.stderr, flush=True)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True
    )
    wall_s = time.monotonic() - started
    print(f"{wall_s:.1f} s", file=sys.stderr, flush=True)
    if done.returncode:
        sys.exit(f"{what}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return wall_s, load, done.stdout.splitlines()[-1]


# -- figures -----------------------------------------------------------------------------------------------------------


def identity(row: Row) -> tuple[float, int, int]:
    """Which ticket of the grid a row is of."""
    return float(row["target_sparsity_pct"]), row["rewind_epoch"], row["seed"]


def check_pruned(side: str, rows: list[Row]) -> None:
    """Stop where a side did not prune what it was asked to: its time would say nothing."""
    for row in rows:
        if abs(row["sparsity_pct"] - row["target_sparsity_pct"]) > TOLERANCE_PP:
            sys.exit(f"{side}: found {row['sparsity_pct']:.2f} % pruned; expected {row['target_sparsity_pct']:g} %")


def measured(rows: list[Row]) -> dict[str, Any]:
    """Means over the tickets of each target sparsity, so that the reader sees both sides do the same job."""
    targets = sorted({row["target_sparsity_pct"] for row in rows})
    by_target = {f"{t:g}": [row for row in rows if row["target_sparsity_pct"] == t] for t in targets}
    return {
        "tickets": len(rows),
        "sparsity_pct": {name: _mean(group, "sparsity_pct") for name, group in by_target.items()},
        "test_accuracy": {name: _mean(group, "test_accuracy") for name, group in by_target.items()},
        "mean_test_accuracy": _mean(rows, "test_accuracy"),
    }


def summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """The JSON object: both sides of the pair with the (lower) median ratio, and the ratios of all pairs."""
    ratios = [pair["ratio"] for pair in pairs]
    middle = pairs[ratios.index(statistics.median_low(ratios))]
    content = {
        "machine": machine(),
        "versions": versions(),
        "ours": middle["ours"],
        "stock": middle["stock"],
        "ratio": middle["ratio"],
        "ratio_as_run": middle["ratio_as_run"],
        "target": TARGET,
        "meets_target": middle["ratio"] >= TARGET,
    }
    if len(pairs) > 1:
        content["repeats"] = {
            "ratio_min": min(ratios), "ratio_median": middle["ratio"], "ratio_max": max(ratios), "ratios": ratios,
            "ratios_as_run": [pair["ratio_as_run"] for pair in pairs],
            "ours_wall_s": [pair["ours"]["wall_s"] for pair in pairs],
            "stock_wall_s": [pair["stock"]["wall_s"] for pair in pairs],
        }  # fmt: skip
    return rounded(content)


def rounded(content: Any) -> Any:
    """The same with floats to four digits after the point."""
    if isinstance(content, dict):
        return {name: rounded(value) for name, value in content.items()}
    if isinstance(content, list):
        return [rounded(value) for value in content]
    return round(content, 4) if isinstance(content, float) else content


def machine() -> dict[str, Any]:
    """Cores and processor."""
    return {"cores": os.cpu_count(), "cpu": cpu_model(), "system": f"{platform.system()} {platform.machine()}"}


def cpu_model() -> str:
    """The processor's name where Linux tells it, else what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def versions() -> dict[str, str]:
    """Versions of what both sides stand on."""
    names = ("ray", "torch", "fastai", "fasterai")  # not of this project, which may be used without being installed
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _mean(rows: list[Row], name: str) -> float:
    return statistics.fmean(row[name] for row in rows)


if __name__ == "__main__":
    main()
