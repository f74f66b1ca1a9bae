"""Many trials: what is around training, beside bare Ray Tune; restart, listing, memory; simulated dispatch.

    python benchmarks/scale.py [tune] [covered] [restart] [dispatch] [--trials 2000] [--seeds 125] [--repeats 1]

tune: trials of one linear layer, nothing shared, through `sweeps.lth_grid`, in turns with as many trials of bare Ray
Tune that only report once (`noop_sweep.py`). covered: a run of 80 trials a seed, every epoch of which another run has
trained. restart: its command once more, `sweeps.status` and `sweeps.storage du`. dispatch: the real searcher on a
simulated clock, for 8 and 64 GPUs. Prints one JSON object; without a part named, all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from scale_tiny import TRIALS_A_SEED

from sweeps.planning.work import work_left

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PARTS = ("tune", "covered", "restart", "dispatch")
RATE, RECORDS_A_SECOND, SECONDS, RSS_MB, MAKESPAN = 0.7, 200, 30, 1500, 1.1
BEST_POSSIBLE = {("one-shot", 64): 470}  # epochs, where more than the bound; see tests/sweeps/planning/test_dispatch.py


def main() -> None:
    """Measure the parts asked for, and print the JSON object."""
    options = parse()
    found: dict[str, Any] = {"cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2)}
    # all folders go at the end: just after thousands of files were deleted, ext4 takes many times as long to make one
    with tempfile.TemporaryDirectory(prefix="scale_", dir=options.folder) as folder:
        if "tune" in options.parts:
            found["tune"] = tune(Path(folder), options.trials, options.repeats)
        if {"covered", "restart"} & set(options.parts):
            found |= ten_thousand(Path(folder, "ladders"), options.seeds, options.parts)
        if "dispatch" in options.parts:
            found["dispatch"] = dispatch()
    print(json.dumps(found, indent=1))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--trials", type=int, default=2000, help="tune: of each side")
    parser.add_argument("--repeats", type=int, default=1, help="tune: pairs of runs")
    parser.add_argument("--seeds", type=int, default=125, help=f"covered, restart: {TRIALS_A_SEED} trials each")
    parser.add_argument("--folder", help="where to work; default: the system's for temporary files")
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"found {', '.join(unknown)}; expected parts among {', '.join(PARTS)}")
    options.parts = options.parts or list(PARTS)
    return options


# -- beside bare Tune --------------------------------------------------------------------------------------------------


def tune(folder: Path, trials: int, repeats: int) -> dict[str, Any]:
    """Trials a second of both sides, in turns, from the import of Ray to the end of the last trial."""
    pairs = []
    for number in range(repeats):
        noop = run(["noop_sweep.py", "--trials", str(trials), "--storage", str(folder / f"noop{number}")])
        ours = grid("tickets", folder / f"ours{number}", "ours", trials // 2)  # a ticket and its dense network a seed
        assert ours["code"] == 0 and "record" not in ours["calls"], ours
        pairs.append({
            "noop": side(trials, noop["seconds"], noop), "ours": side(trials, ours["seconds"]["launch"], ours),
            "ratio": round(noop["seconds"] / ours["seconds"]["launch"], 3),
        })  # fmt: skip
    ratio = statistics.median(pair["ratio"] for pair in pairs)
    rss = max(pair["ours"]["driver_rss_mb"] for pair in pairs)
    return {
        "trials": trials, "pairs": pairs, "ratio": ratio, "target_ratio": RATE, "meets_target": ratio >= RATE,
        "driver_rss_mb": rss, "meets_target_rss": rss < RSS_MB,
    }  # fmt: skip


def side(trials: int, seconds: float, figures: dict[str, Any]) -> dict[str, Any]:
    """What one side did in one run. cpu_s: of all its processes."""
    return {
        "seconds": round(seconds, 1), "trials_a_second": round(trials / seconds, 1),
        **{name: round(figures[name], 1) for name in ("cpu_s", "driver_cpu_s", "driver_rss_mb", "load_before")},
    }  # fmt: skip


# -- ten thousand trials -----------------------------------------------------------------------------------------------


def ten_thousand(storage: Path, seeds: int, parts: list[str]) -> dict[str, Any]:
    """One run trains, another of the same storage is recorded from its states; then everything is done already."""
    trials = seeds * TRIALS_A_SEED
    trained = grid("ladders", storage, "trained", seeds)
    covered = grid("ladders", storage, "covered", seeds)
    assert (trained["code"], covered["code"], covered["calls"]["record"]) == (0, 0, trials), (trained, covered)
    assert "launch" not in covered["calls"]
    rate = trials / covered["seconds"]["record"]
    found = {"covered": {
        "trials": trials, "records_a_second": round(rate), "target": RECORDS_A_SECOND,
        "meets_target": rate >= RECORDS_A_SECOND, "trained": steps(trained), "covered": steps(covered),
    }}  # fmt: skip
    if "restart" in parts:
        found["restart"] = restart(storage, seeds, [trained, covered])
    return {part: found[part] for part in found if part in parts}


def restart(storage: Path, seeds: int, before: list[dict[str, Any]]) -> dict[str, Any]:
    """The covered run's command again, and the listings. driver_rss_mb: the most of all commands so far."""
    again = grid("ladders", storage, "covered", seeds)
    assert again["code"] == 0 and not {"record", "launch"} & set(again["calls"]), again
    seconds = {
        "restart": again["command_s"],
        "status": run(["-m", "sweeps.status", str(storage / "covered"), "--json"])["command_s"],
        "du": run(["-m", "sweeps.storage", "du", str(storage), "--json"])["command_s"],
    }
    rss = max(figures["driver_rss_mb"] for figures in (*before, again))
    return {
        "trials": seeds * TRIALS_A_SEED, "seconds": rounded(seconds), "target_s": SECONDS,
        "meets_target": max(seconds.values()) <= SECONDS, "restarted": steps(again),
        "driver_rss_mb": round(rss), "target_rss_mb": RSS_MB, "meets_target_rss": rss < RSS_MB,
    }  # fmt: skip


def steps(figures: dict[str, Any]) -> dict[str, Any]:
    """Wall seconds of a command by step, its CPU seconds with and without its workers, its memory."""
    whole = {name: round(figures[name], 1) for name in ("cpu_s", "driver_cpu_s", "driver_rss_mb", "load_before")}
    return {"seconds": rounded(figures["seconds"]), **whole}


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {step: round(value, 2) for step, value in seconds.items()}


# -- simulated ---------------------------------------------------------------------------------------------------------


def dispatch() -> dict[str, Any]:
    """Makespans in epochs of the four grids of the literature (160 epochs a level) on 8 and 64 GPUs."""
    sys.path.insert(0, str(ROOT))  # the simulation is that of the tests
    from tests.support.clock import simulate
    from tests.support.plans import GRIDS, planned

    rows = []
    for name, specs in GRIDS.items():
        plan = planned(specs)
        work = work_left(plan, (), ())
        for slots in (8, 64):
            bound = max(work.critical_path, work.epochs / slots)
            makespan = simulate(plan, slots, watch=False).now
            least = BEST_POSSIBLE.get((name, slots), bound)
            rows.append({
                "grid": name, "trials": len(plan.trials), "gpus": slots, "epochs": work.epochs, "makespan": makespan,
                "bound": bound, "ratio": round(makespan / bound, 3), "best_possible": least,
                "ratio_to_best_possible": round(makespan / least, 3), "meets_target": makespan <= MAKESPAN * bound,
            })  # fmt: skip
    return {"grids": rows, "target_ratio": MAKESPAN, "meets_target": all(row["meets_target"] for row in rows)}


# -- one command -------------------------------------------------------------------------------------------------------


def grid(recipe: str, storage: Path, name: str, seeds: int) -> dict[str, Any]:
    """A sweep of `scale_tiny.py` in a process of its own."""
    arguments = [f"scale_tiny:{recipe}", "--seeds", str(seeds), "--storage", str(storage), "--name", name]
    return run(["timed_grid.py", *arguments])


def run(arguments: list[str]) -> dict[str, Any]:
    """A Python command: the JSON that ends its output, its wall seconds, and the CPU seconds of all its processes."""
    words = arguments if arguments[0] == "-m" else [str(HERE / arguments[0]), *arguments[1:]]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")])}
    load, started = os.getloadavg()[0], time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True, env=environment)
    used: dict[int, float] = {}
    watching = threading.Thread(target=watch_cpu, args=(process, used), daemon=True)
    watching.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - started
    watching.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with code {process.returncode}")
    last = json.loads(output.rstrip().splitlines()[-1])
    return {**last, "command_s": seconds, "cpu_s": sum(used.values()), "load_before": load}


def watch_cpu(process: subprocess.Popen[str], used: dict[int, float], every: float = 0.25) -> None:
    """Note the CPU seconds of a process and of all that it started, by process, until it ends."""
    top = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            for one in (top, *top.children(recursive=True)):
                times = one.cpu_times()
                used[one.pid] = times.user + times.system
        except psutil.Error:  # one that ended in this moment
            pass
        time.sleep(every)


if __name__ == "__main__":
    main()
