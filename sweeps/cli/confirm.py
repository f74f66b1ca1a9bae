"""The commands that train what a search has found on other seeds: the knee of the front, or all of it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lth_trainable.spec.draft import MOST_SEED
from lth_trainable.spec.rewind_point import RewindPoint
from sweeps.cli.options import RunOptions, flags
from sweeps.experiments.recipes import digits
from sweeps.search.searches import Search

Row = Mapping[str, Any]
SEEDS = 8
EQUAL = 1e-9  # sums that differ less are equal
WHERE = (
    "data_root", "storage", "cpus_per_trial", "gpus_per_trial", "trials_per_gpu", "mps", "max_concurrent", "replicas",
    "cluster",
)  # fmt: skip
NO_WEIGHTS = 1e-6  # density (percent) that counts as none, for its logarithm


def distinct(rows: Sequence[Row]) -> list[Row]:
    """The first of the suggestions that led to the same trials."""
    return list({tuple(row["trials"]): row for row in reversed(rows)}.values())[::-1]


def knee(front: Sequence[Row], search: Search) -> tuple[Row, bool]:
    """The row of the front where little more can be had of one objective without losing much of another.

    Each objective is scaled to 0..1 between the worst and the best of the front, sparsity by the logarithm of the
    weights that remain, as in the figure. The knee has the greatest sum: with two objectives it is the point farthest
    beyond the straight line between the ends of the front. A front without a knee (nothing lies beyond that line) gives
    its most accurate row, and False.
    """
    scores = [_scores(row, search) for row in front]
    ends = [(min(of), max(of)) for of in zip(*scores, strict=True)]
    sums = [
        sum((value - low) / (high - low) for value, (low, high) in zip(values, ends, strict=True) if high > low)
        for values in scores
    ]
    of_ends = max(total for values, total in zip(scores, sums, strict=True) if _is_end(values, ends))
    if max(sums) <= of_ends + EQUAL:
        return max(front, key=_accuracy), False
    return front[sums.index(max(sums))], True


def _is_end(values: Sequence[float], ends: Sequence[tuple[float, float]]) -> bool:
    """Whether a row is the best of the front in some objective."""
    return any(value == high for value, (_, high) in zip(values, ends, strict=True))


def confirm(rows: Sequence[Row], search: Search, options: RunOptions) -> list[str]:
    """The commands that train these suggestions on eight seeds that the search has not used, one for each.

    They use the same data, storage and resources of a trial, and make one run.
    """
    return [_command(row, search, options) for row in rows]


def _scores(row: Row, search: Search) -> list[float]:
    """The objectives of a row, the greater the better."""
    density = max(100 - row["sparsity_pct"], NO_WEIGHTS)
    known = {"accuracy": _accuracy(row), "sparsity": -math.log(density), "epochs": -float(row["epochs_alone"] or 0)}
    return [known[name] for name in search.objectives]


def _accuracy(row: Row) -> float:
    return float(row["objective_accuracy"] if row["objective_accuracy"] is not None else row["valid_accuracy"])


def _command(row: Row, search: Search, options: RunOptions) -> str:
    flag_of = flags()
    values = {"target_sparsity_pct": row["target_sparsity_pct"]}
    # without a flag, all values of the recipe's axes would be trained
    named = {**digits().axes, **search.sweep.base, **search.axes}
    values |= {name: row[name] for name in named if row.get(name) is not None}
    if row.get("rewind_step") is not None:
        values["rewind_epoch"] = str(RewindPoint(iteration=row["rewind_step"]))
    words = [word for name, value in values.items() for word in (f"--{flag_of[name].replace('_', '-')}", _text(value))]
    seeds = [str(seed) for seed in _unused(search.sweep.seeds)]
    command = ["python", "-m", "sweeps.lth_grid", "--name", "confirm", *words, "--seed", *seeds, *_where(options)]
    return shlex.join(command)


def _unused(seeds: Sequence[int]) -> list[int]:
    """The next eight seeds after these; where those would be too large, the first that are not among them."""
    first = max(seeds) + 1
    candidates = range(first, first + SEEDS) if first + SEEDS <= MOST_SEED else range(len(seeds) + SEEDS)
    return [seed for seed in candidates if seed not in seeds][:SEEDS]


def _where(options: RunOptions) -> list[str]:
    """Flags for where and how trials run, if they differ from their defaults."""
    plain, words = RunOptions(), list[str]()
    for name in WHERE:
        if getattr(options, name) != getattr(plain, name):
            words += [f"--{name.replace('_', '-')}", _text(getattr(options, name))]
    return words + ["--deterministic"] * options.deterministic + ["--compile"] * options.compile


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
