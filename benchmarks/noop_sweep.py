"""The peer: bare Ray Tune, on trials that do nothing but report once.

    python benchmarks/noop_sweep.py --trials 2000 --storage DIR

One CPU a trial, workers used again, and the environment of our own sweeps: no second copies of results in CSV and
TensorBoard, no console output. Prints one JSON object: seconds from the import of Ray to the end of the last trial, and
the driver's own CPU seconds and peak memory.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import time
from typing import Any

from sweeps.running.ray_process import QUIET


def report_once(config: dict[str, Any]) -> None:
    """A trial."""
    from ray import tune

    tune.report({"value": 1})


def main() -> None:
    """Run them all, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--storage", required=True, help="folder for Ray's results; must be new")
    options = parser.parse_args()
    os.environ.update(QUIET | {"RAY_AUTH_MODE": "disabled"})  # or Ray complains that it has no token
    started = time.perf_counter()
    import ray
    from ray import tune

    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
    tuner = tune.Tuner(
        tune.with_resources(report_once, {"cpu": 1}),
        tune_config=tune.TuneConfig(num_samples=options.trials, reuse_actors=True),
        run_config=tune.RunConfig(name="noop", storage_path=options.storage, verbose=0),
    )
    results = tuner.fit()
    seconds = time.perf_counter() - started
    if results.errors or len(results) != options.trials:
        raise RuntimeError(f"{len(results)} results, {len(results.errors)} of them errors")
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({
        "seconds": seconds, "driver_cpu_s": used.ru_utime + used.ru_stime, "driver_rss_mb": used.ru_maxrss / 1024,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
