"""One grid of 64 trials on one GPU and on two: trials alone, packed with and without MPS, and packed by themselves.

    python benchmarks/packing.py [--parts alone packed ...] [--epochs 30] [--trials-per-gpu 8]

Run it on an idle machine with one or two GPUs. Each part is the same command of `sweeps.lth_grid` in a new folder, with
other flags for packing. Prints one JSON object. The exit code is 1 unless every part has trained every trial, and, with
deterministic kernels, to the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
SEEDS = 32  # each with a dense network and a ticket: 64 trials
PARTS = {
    "alone": (1, ()), "packed": (1, ("N",)), "without_mps": (1, ("N", "--mps", "off")), "auto": (1, ("auto",)),
    "two_alone": (2, ()), "two_packed": (2, ("N",)),
}  # fmt: skip
RATIOS = {
    "packed_to_alone": ("packed", "alone"), "packed_to_without_mps": ("packed", "without_mps"),
    "auto_to_packed": ("auto", "packed"), "two_to_one": ("two_packed", "packed"),
    "two_to_one_alone": ("two_alone", "alone"),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that the machine has GPUs for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["packed", "without_mps", "two_packed", "auto"])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--trials-per-gpu", type=int, default=8)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--fast", action="store_true", help="without --deterministic: bytes are not compared")
    options = parser.parse_args(arguments)
    gpus, load = torch.cuda.device_count(), os.getloadavg()[0]
    found = {}
    for name in options.parts:
        if PARTS[name][0] <= gpus:
            found[name] = part(name, options)
            shown = {what: value for what, value in found[name].items() if what != "hashes"}
            print(f"{name}: {json.dumps(shown)}", file=sys.stderr, flush=True)  # in case a later part does not end
    hashes = {name: each.pop("hashes") for name, each in found.items()}
    same = (
        None
        if options.fast or len(found) < 2
        else len({json.dumps(each, sort_keys=True) for each in hashes.values()}) <= 1
    )
    done = bool(found) and all(each["exit_code"] == 0 and each["trials"] == 2 * SEEDS for each in found.values())
    print(json.dumps({
        "gpus": [torch.cuda.get_device_name(gpu) for gpu in range(gpus)], "cores": os.cpu_count(),
        "torch": torch.__version__, "load_before": round(load, 2), "epochs": options.epochs, "model": options.model,
        "parts": found, "same_bytes": same, "seconds_ratios": ratios(found, "seconds"),
        "training_ratios": ratios(found, "training_s"),
    }, indent=1))  # fmt: skip
    return 0 if done and same is not False else 1


def ratios(found: dict[str, Any], what: str) -> dict[str, float]:
    """Quotients of seconds of two parts, where both were run."""
    return {
        name: round(found[one][what] / found[other][what], 3)
        for name, (one, other) in RATIOS.items()
        if one in found and other in found and found[other][what]
    }


def part(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run the grid in one way, and describe what it took and left."""
    gpus, flags = PARTS[name]
    packing = ["--gpus-per-trial", "1"]
    if flags:
        first, *others = flags
        packing = ["--trials-per-gpu", str(options.trials_per_gpu) if first == "N" else first, *others]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "sweeps.lth_grid", "digits", "--dataset", options.dataset, "--model", options.model,
            "--controls", "none", "--schedule", "omp", "--sparsity", "80", "--rewind-epoch", "0",
            "--epochs", str(options.epochs), "--seeds", str(SEEDS), "--storage", folder,
            *([] if options.fast else ["--deterministic"]), *packing,
        ]  # fmt: skip
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        chosen = ",".join(visible.split(",")[:gpus])
        started = time.time()
        done = subprocess.run(
            command, env={**os.environ, "CUDA_VISIBLE_DEVICES": chosen}, cwd=ROOT, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        seconds = time.time() - started
        if done.returncode:
            sys.stderr.write(done.stdout[-2_000:] + done.stderr[-2_000:])
        told = [line for line in (done.stdout + done.stderr).splitlines() if "MPS" in line or "trials-per-gpu" in line]
        return {
            "exit_code": done.returncode, "seconds": round(seconds, 1), "flags": packing, "gpus": chosen, "told": told,
            **left_in(Path(folder)),
        }  # fmt: skip


def left_in(storage: Path) -> dict[str, Any]:
    """What the records say. training_s: from the start of the first trial to the end of the last."""
    files = list(storage.glob("*/trials/*/record.json"))
    records = [json.loads(file.read_text()) for file in files]
    shared = [record["gpu"] for record in records if "gpu" in record]
    ended = [file.stat().st_mtime for file in files]
    begun = [end - record["train_seconds"] for end, record in zip(ended, records, strict=True)]
    return {
        "trials": len(records), "epochs": sum(record["epochs_trained"] for record in records),
        "training_s": round(max(ended) - min(begun), 1) if records else None,
        "mps": sorted({str(each["mps"]) for each in shared}),
        "trials_on_gpu": sorted({each["trials_on_gpu"] for each in shared}),
        "peak_mib": max((each["peak_bytes"] >> 20 for each in shared), default=None),
        "hashes": {record["trial"]: record["sha256"] for record in records},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
