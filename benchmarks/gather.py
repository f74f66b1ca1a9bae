"""How fast a run becomes Parquet: a synthetic run of real records, gathered from nothing and after one more trial.

    python benchmarks/gather.py [--trials 10000] [--epochs 20] [--layers 20] [--seeds 20] [--geometry auto|all|none]

One real ticket is trained (digits, one-shot, a second). Its record is the pattern of all others: each trial has its own
spec, name, key, accuracies and masks, and is sealed by the store. Then the run is gathered four times, each in a new
process that is timed from its start to its end: from nothing, again, after one more trial, and from nothing once more.
The last two must give the same bytes, else the exit code is 1. Everything is in a temporary folder, which goes at the
end. Prints one JSON object: sizes, seconds, peak memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from lth_trainable.pruning.masks import pack
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import MASKS, PLAN, RECORD, Store, to_json
from lth_trainable.training.run import run_trial

RUN = "synthetic"
REWINDS = (0, 1, 2, 3, 4)
TARGET_SECONDS, TARGET_BYTES = 30.0, 2 << 30
GATHER = """
import sys, time, analysis
analysis.gather(sys.argv[1], sys.argv[2])
print(time.process_time(), *(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def main() -> int:
    """Write, gather, compare; returns the exit code."""
    options = parse()
    with tempfile.TemporaryDirectory(prefix="gather-") as folder:
        storage, started = Path(folder), time.perf_counter()
        pattern = real_record(options.epochs)
        specs = list(trial_specs(options.trials, options.seeds, options.epochs))
        write_run(Store(storage), specs, pattern, options)
        written = time.perf_counter() - started
        sealed = sum(path.stat().st_size for path in (storage / RUN / "trials").rglob("*") if path.is_file())
        first, again = gather(storage, options), gather(storage, options)
        write_trial(Store(storage), specs[-1], pattern, options)
        one_more, tables = gather(storage, options), tables_of(storage)
        shutil.rmtree(storage / RUN / "analysis")
        anew = gather(storage, options)
        same = tables_of(storage) == tables
    print(json.dumps({
        "cores": os.cpu_count(), "load_before": options.load, "trials": options.trials, "seeds": options.seeds,
        "epochs_a_trial": options.epochs, "layers": options.layers, "levels_a_ticket": 2, "geometry": options.geometry,
        "write_s": round(written, 1), "records_and_masks_bytes": sealed,
        "from_nothing": first, "again": again, "one_more_trial": one_more, "from_nothing_with_it": anew,
        "tables_bytes": {name: size for name, (size, _) in sorted(tables.items())},
        "same_bytes_as_from_nothing": same,
        "meets_target": first["seconds"] < TARGET_SECONDS and first["peak_bytes"] < TARGET_BYTES,
    }, indent=1))  # fmt: skip
    return 0 if same else 1


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20, help="epochs of a trial")
    parser.add_argument("--layers", type=int, default=20, help="layers of the network, each a row at each of 2 levels")
    parser.add_argument("--weights", type=int, default=1000, help="weights of a layer")
    parser.add_argument("--seeds", type=int, default=20, help="seeds of a group of tickets, and of the dense network")
    parser.add_argument(
        "--geometry", choices=("auto", "all", "none"), default="auto", help="whether masks are compared"
    )
    options = parser.parse_args()
    options.load = os.getloadavg()[0]
    return options


def real_record(epochs: int) -> dict[str, Any]:
    """The record of a ticket that is trained here, for as many epochs."""
    with tempfile.TemporaryDirectory() as folder:
        spec = TrialSpec(schedule="one_shot", epochs=epochs)
        return run_trial(spec, Store(folder))


def trial_specs(count: int, seeds: int, epochs: int) -> Iterator[TrialSpec]:
    """Dense trials of each seed, then one-shot tickets, seed by seed within their groups, until there are `count`."""
    for seed in range(seeds):
        yield TrialSpec(control="dense", epochs=epochs, seed=seed)
    groups = -(-(count - seeds) // seeds)
    rungs = -(-groups // len(REWINDS))
    targets = [round(2 + 96 * (rung + 1) / (rungs + 1), 3) for rung in range(rungs)]
    settings = [(target, rewind) for rewind in REWINDS for target in targets][:groups]
    first = TrialSpec(schedule="one_shot", epochs=epochs)
    for number in range(count - seeds):
        target, rewind = settings[number // seeds]
        yield replace(first, target_sparsity_pct=target, rewind_epoch=rewind, seed=number % seeds)


def write_run(store: Store, specs: list[TrialSpec], pattern: dict[str, Any], options: argparse.Namespace) -> None:
    """The plan of all trials, and the records of all but the last."""
    entries = [
        {"name": spec.name, "key": spec.key(pattern["data"]["digest"]), "spec": spec.canonical()} for spec in specs
    ]
    plan = {
        "format": 1, "recipe": RUN, "claim": "", "commands": [["benchmarks/gather.py"]], "endpoint": "test_accuracy",
        "margin_pp": 0.5, "alpha": 0.05, "versions": {}, "trials": entries,
    }  # fmt: skip
    store.write(f"{RUN}/{PLAN}", to_json(plan))
    for spec in specs[:-1]:
        write_trial(store, spec, pattern, options)


def write_trial(store: Store, spec: TrialSpec, pattern: dict[str, Any], options: argparse.Namespace) -> None:
    """The pattern as this trial's own: other numbers, `layers` layers, masks that agree with them."""
    rng = np.random.default_rng([spec.seed, *spec.name.encode()])
    names = [f"{layer}.weight" for layer in range(options.layers)]
    levels = [0.0] if spec.is_dense else [0.0, (spec.target_sparsity_pct or 0.0) / 100]
    kept = [round(options.weights * (1 - sparsity)) for sparsity in levels]
    masks = {f"1/{name}": pack(rng.permutation(options.weights) < kept[-1]) for name in names} if kept[1:] else {}
    packed = save(masks)
    accuracy = 0.95 + 0.01 * rng.standard_normal(options.epochs)
    epochs = [
        {**row, "trained_by": spec.name, "valid_accuracy": float(value), "valid_loss": float(1 - value)}
        for row, value in zip(pattern["epochs"], accuracy, strict=True)
    ]
    if spec.is_dense:
        epochs = [{**row, "level": 0, "sparsity_pct": 0.0} for row in epochs]
    own = {
        "trial": spec.name, "key": spec.key(pattern["data"]["digest"]), "spec": spec.canonical(), "epochs": epochs,
        "layers": [
            {"level": level, "layer": name, "type": "Linear", "n_weights": options.weights, "n_kept": n}
            for level, n in enumerate(kept) for name in names
        ],
        "shapes": {name: [options.weights] for name in names},
        "states": {which: digest_of(rng) for which in pattern["states"]},
        "sha256": {
            "weights": digest_of(rng), "metrics": digest_of(rng), "masks": hashlib.sha256(packed).hexdigest()
        },
        "result": pattern["result"] | {
            "n_weights": options.weights * options.layers, "n_kept": kept[-1] * options.layers,
            "sparsity_pct": 100 * (1 - kept[-1] / options.weights), "test_accuracy": float(accuracy.mean()),
            "valid_accuracy": float(accuracy[-1]), "best_valid_accuracy": float(accuracy.max()),
        },
    }  # fmt: skip
    about = {
        "kind": "trial", "trial": spec.name, "key": own["key"], "status": "done",
        "states": {which: store.state(key, pattern["fingerprint"]) for which, key in own["states"].items()},
        "fingerprint": pattern["fingerprint"],
    }  # fmt: skip
    store.seal(store.trial(RUN, spec.name), {RECORD: to_json(pattern | own), MASKS: packed}, about)


def digest_of(rng: np.random.Generator) -> str:
    return rng.bytes(32).hex()


def gather(storage: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Gather in a new process: seconds from its start to its end, those of CPU time, and its peak memory (Linux)."""
    started = time.perf_counter()
    command = [sys.executable, "-c", GATHER, str(storage / RUN), options.geometry]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, (cpu, peak) = time.perf_counter() - started, done.stdout.split()
    return {"seconds": round(seconds, 2), "cpu_s": round(float(cpu), 2), "peak_bytes": 1024 * int(peak)}


def tables_of(storage: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each file of the tables."""
    folder = storage / RUN / "analysis"
    files = [path for path in folder.rglob("*.parquet") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }


if __name__ == "__main__":
    sys.exit(main())
