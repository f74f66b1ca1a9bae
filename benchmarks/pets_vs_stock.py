"""The tutorial's grid on cats and dogs on one GPU: the whole command here, and a part of it with stock Ray and fastai.

    python benchmarks/pets_vs_stock.py --data-root DIR [--trials-per-gpu 12]

The grid: 50, 80 and 90 %, rewinding to epochs 0 and 1, dense networks of 20 and of 5 epochs, five seeds: 40 trials.
Ours is the command from its start to its end, with analysis and report. The peer (`stock_pets.py`) trains one ticket
and one dense network of 5 epochs, one after another, each in a process of its own, as Ray Tune does. Its time for the
grid is computed: `once` (start and end of its command) + trials x `a_trial` (process, imports, loaders, first epoch) +
epochs x `an_epoch` (median, without each trial's first). All of its trials train all of their epochs, because stock
trials share nothing. Prints one JSON object. The exit code is 1 if the target is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from sweep_vs_stock import machine, rounded, timed, versions

TARGET = 50.0  # times faster
TOLERANCE_PP = 0.1  # measured sparsity of the peer's ticket against its target
EPOCHS, SEEDS, SPARSITIES, REWINDS = 20, 5, ("50", "80", "90"), ("0", "1")
PEER = Path(__file__).with_name("stock_pets.py")


def main() -> int:
    """Measure both sides; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--trials-per-gpu", type=int, default=12)
    parser.add_argument("--sides", nargs="+", choices=("ours", "stock"), default=["ours", "stock"])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="another number only to try it")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="another number only to try it")
    parser.add_argument("--image-size", type=int, help="only to try it on a CPU")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pets_vs_stock_") as folder:
        found = {
            side: (ours if side == "ours" else stock)(options, Path(folder))
            for side in ("ours", "stock") if side in options.sides
        }  # fmt: skip
    ratio = found["stock"]["grid_s"] / found["ours"]["grid_s"] if len(found) == 2 else None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(json.dumps(rounded({
        "machine": {**machine(), "device": device}, "versions": versions(), **found, "ratio": ratio,
        "target": TARGET, "meets_target": None if ratio is None else ratio >= TARGET,
    }), indent=1))  # fmt: skip
    return 0 if ratio is None or ratio >= TARGET else 1


def ours(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole command."""
    on_gpu = ["--trials-per-gpu", str(options.trials_per_gpu)] if torch.cuda.is_available() else []
    size = ["--image-size", str(options.image_size)] if options.image_size else []
    command = [
        "-m", "sweeps.lth_grid", "pets_tutorial", "--sparsity", *SPARSITIES, "--rewind-epoch", *REWINDS,
        "--reset-end", "False", "--schedule", "iterative", "--controls", "none",
        "--baselines", "dense", "dense_to_first_prune", "--seeds", str(options.seeds), "--epochs", str(options.epochs),
        "--data-root", str(options.data_root.resolve()), "--storage", str(folder / "ours"), "--json", *size, *on_gpu,
    ]  # fmt: skip
    wall_s, load, last = timed(command, "ours")
    run = json.loads(last)
    tickets, dense = grid(options)
    if run["done"] != tickets + dense:
        sys.exit(f"ours: found {run['done']} trials done; expected {tickets + dense}")
    return {
        "grid_s": wall_s, "trials": run["done"], "epochs_trained": run["epochs_trained"],
        "epochs_requested": run["epochs_requested"], "load_before": load,
    }  # fmt: skip


def stock(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The peer's two trials, and what the grid would take it."""
    output = folder / "stock.json"
    size = ["--image-size", str(options.image_size)] if options.image_size else []
    command = [
        str(PEER), "--data-root", str(options.data_root), "--storage", str(folder / "stock"), "--output", str(output),
        "--epochs", str(options.epochs), *size,
    ]  # fmt: skip
    wall_s, load, _ = timed(command, "stock")
    run = json.loads(output.read_text())
    for trial in run["trials"]:
        if abs(trial["sparsity_pct"] - trial["asked"]["sparsity_pct"]) > TOLERANCE_PP:
            sys.exit(
                f"stock: found {trial['sparsity_pct']:.2f} % pruned; expected {trial['asked']['sparsity_pct']:g} %"
            )
    tickets, dense = grid(options)
    epochs = (tickets + dense // 2) * options.epochs + dense // 2 * -(-options.epochs // 4)
    return {**of_grid(run, wall_s, tickets + dense, epochs), "measured_s": wall_s, "load_before": load}


def of_grid(run: dict[str, Any], wall_s: float, trials: int, epochs: int) -> dict[str, Any]:
    """What so many trials with so many epochs would take, from what a few took. wall_s: of the peer's whole command."""
    each = statistics.median(second for trial in run["trials"] for second in trial["seconds"][1:])
    trained = sum(len(trial["seconds"]) for trial in run["trials"])
    once, a_trial = wall_s - run["fit_s"], (run["fit_s"] - trained * each) / len(run["trials"])
    return {
        "grid_s": once + trials * a_trial + epochs * each, "trials": trials, "epochs": epochs, "once": once,
        "a_trial": a_trial, "an_epoch": each, "measured_trials": len(run["trials"]), "measured_epochs": trained,
        "valid_accuracy": [trial["valid_accuracy"] for trial in run["trials"]],
    }  # fmt: skip


def grid(options: argparse.Namespace) -> tuple[int, int]:
    """Number of tickets, and of dense networks: half of them for all epochs, half for a quarter."""
    return len(SPARSITIES) * len(REWINDS) * options.seeds, 2 * options.seeds


if __name__ == "__main__":
    sys.exit(main())
