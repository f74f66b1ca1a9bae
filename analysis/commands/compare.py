"""`python -m analysis compare RUN_A RUN_B`: compare two runs seed by seed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from analysis.report.compare import show_comparison
from analysis.tables.parquet import load
from analysis.tables.run_plan import find_run, read_plan
from analysis.text import console
from analysis.verdicts.compare import Compared, compare
from lth_trainable.errors import OK, UserError
from lth_trainable.options import parsed


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare run B with run A, seed by seed: two recipes, two criteria, or one recipe with two versions of the code.

    Tickets and dense networks are paired with those of the other run that have the same fields, except for the fields
    in which the runs have no value in common. Both runs must be gathered; a sweep does that when it ends.
    """

    run_a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_A")]
    """The reference: the folder of a run, such as runs/digits, or its URI."""
    run_b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_B")]
    """The other run. Differences are B minus A."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: run_a, run_b, endpoint, free, versions, comparisons, unmatched."""


def main(arguments: Sequence[str]) -> int:
    """Compare and print; returns the exit code. Raises `UserError` for bad input."""
    options = parsed(Options, prog="python -m analysis compare", args=arguments)
    found = compare_runs(options.run_a, options.run_b)
    if options.json:
        print(
            json.dumps({"run_a": options.run_a, "run_b": options.run_b, **dataclasses.asdict(found)}, allow_nan=False)
        )
    else:
        show_comparison(console(), found, options.run_a, options.run_b)
    return OK


def compare_runs(path_a: str, path_b: str) -> Compared:
    """The comparison of two gathered runs.

    Raises `UserError` if they are the same run, have different endpoints, or share no group.
    """
    (store_a, run_a), (store_b, run_b) = find_run(path_a), find_run(path_b)
    if store_a.at(run_a) == store_b.at(run_b):
        raise UserError(f"RUN_B: found {path_b}, which is RUN_A; expected another run")
    endpoint_a, endpoint_b = (
        read_plan(store, run).rule.endpoint for store, run in ((store_a, run_a), (store_b, run_b))
    )
    if endpoint_a != endpoint_b:
        raise UserError(
            f"RUN_B: found the endpoint {endpoint_b}; expected {endpoint_a}, the endpoint of RUN_A; "
            "each run is judged by the endpoint it was planned with, so compare runs with the same endpoint"
        )
    found = compare(load(path_a).rows("trials"), load(path_b).rows("trials"), endpoint_a)
    if not found.comparisons:
        raise UserError(
            f"RUN_B: found no group of {path_b} that matches one of {path_a}; expected tickets with the same target "
            f"sparsity, or dense networks, in both{_first_reason(found)}"
        )
    return found


def _first_reason(found: Compared) -> str:
    return "".join(f"; {left.group} of {left.run}: {left.why}" for left in found.unmatched[:1])
