"""One whole-model prune of ResNet-18, ours and fasterai 0.4.1's, in turns in one process. Prints one JSON object.

    python benchmarks/prune_resnet18.py [--repeats 15] [--threads 2]

Ours is `Pruner.prune`, theirs `Sparsifier.sparsify_model`: scores, masks, masks applied to the weights; the network is
built and the pruner set up outside the clock. Half of the 11,166,912 convolution weights go, one weight at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

warnings.filterwarnings("ignore")

import torch  # noqa: E402
from fasterai.core.criteria import large_final as their_large_final  # noqa: E402
from fasterai.sparse.sparsifier import Sparsifier  # noqa: E402

from lth_trainable.models.networks import resnet18  # noqa: E402
from lth_trainable.pruning.criteria import large_final  # noqa: E402
from lth_trainable.pruning.layers import prunable_layers  # noqa: E402
from lth_trainable.pruning.pruner import Pruner  # noqa: E402

TARGETS = {"local": 7.0, "global": 10.0}  # theirs over ours, at least
SHAPE, N_CLASSES, SPARSITY = (3, 64, 64), 2, Fraction(1, 2)
WARM_UP = 2


def ours(context: str) -> tuple[Callable[[], Any], Callable[[], int]]:
    """A prune to be timed, and the number of weights that it removed."""
    pruner = Pruner(prunable_layers(resnet18(SHAPE, N_CLASSES)), large_final, context=context)
    return lambda: pruner.prune(SPARSITY), lambda: pruner.n_weights - pruner.n_kept


def theirs(context: str) -> tuple[Callable[[], Any], Callable[[], int]]:
    """The same of fasterai's."""
    model = resnet18(SHAPE, N_CLASSES)
    sparsifier = Sparsifier(model, "weight", context, their_large_final)
    masks = lambda: [m._mask for m in model.modules() if hasattr(m, "_mask")]  # noqa: E731
    return lambda: sparsifier.sparsify_model(float(SPARSITY)), lambda: int(sum((mask == 0).sum() for mask in masks()))


def measure(context: str, repeats: int) -> dict[str, Any]:
    """Both sides in turns, so that a busy moment hits both; medians, and the spread of the pairwise ratios."""
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    removed: dict[str, int] = {}
    for repeat in range(WARM_UP + repeats):
        for side, build in (("ours", ours), ("theirs", theirs)):
            torch.manual_seed(repeat)
            run, count = build(context)
            started = time.perf_counter()
            run()
            took = 1000 * (time.perf_counter() - started)
            removed[side] = count()
            if repeat >= WARM_UP:
                times[side].append(took)
    medians = {side: statistics.median(values) for side, values in times.items()}
    ratio = medians["theirs"] / medians["ours"]
    ratios = sorted(b / a for a, b in zip(times["ours"], times["theirs"], strict=True))
    return {
        "ours_ms": round(medians["ours"], 2), "theirs_ms": round(medians["theirs"], 2), "ratio": round(ratio, 2),
        "target_ratio": TARGETS[context], "meets_target": ratio >= TARGETS[context],
        "ours_ms_range": [round(min(times["ours"]), 2), round(max(times["ours"]), 2)],
        "theirs_ms_range": [round(min(times["theirs"]), 2), round(max(times["theirs"]), 2)],
        "pairwise_ratio_quartiles": [round(q, 2) for q in statistics.quantiles(ratios, n=4)],
        "weights_removed": removed,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="timed prunes of each side and context")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    results = {context: measure(context, arguments.repeats) for context in TARGETS}
    report = {
        "network": "resnet18, 2 classes, 11,166,912 convolution weights", "sparsity_pct": float(100 * SPARSITY),
        "threads": arguments.threads, "cores": os.cpu_count(), "repeats": arguments.repeats,
        "load_before": round(load, 2), "torch": torch.__version__, **results,
        "meets_target": all(result["meets_target"] for result in results.values()),
    }  # fmt: skip
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
