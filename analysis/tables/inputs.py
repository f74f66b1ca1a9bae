"""What the results of a run follow from, as one digest: if it is that of the last gather, nothing has to be made again.

These are the plan, the files of every trial by name, size and time, exclusions, tables of other commands, the project's
code and the libraries that compute and draw. `RUN/analysis/index.json` keeps the digest.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from platform import python_version

from pyarrow import fs

from analysis.tables.exclusions import Exclusions
from analysis.tables.index import OTHERS, SETTLED_NS, Geometry
from analysis.tables.parquet import read_bytes, sha256_of
from analysis.tables.records import Files, is_begun, list_trials
from analysis.tables.run_plan import RunPlan
from lth_trainable.spec.values import digest
from lth_trainable.store.store import Store
from lth_trainable.versions import source_sha256

LIBRARIES = ("numpy", "scipy", "pandas", "pyarrow", "matplotlib", "jinja2")
MANY = 1000  # trials from which on a wait of two seconds is shorter than to make the results again


def inputs_of(
    store: Store,
    run: str,
    plan: RunPlan,
    folders: Mapping[str, Files],
    signatures: Mapping[str, str | None],
    excluded: Exclusions,
    geometry: Geometry,
) -> str | None:
    """Digest of all inputs; None if the files of a trial are so young that they may still change unnoticed.

    signatures: of the files of each trial, see `signature_of`.
    """
    begun = {name: mark for name, mark in signatures.items() if is_begun(folders.get(name, {}))}
    if None in begun.values():
        return None
    trials = [(trial.name, trial.key, trial.role, trial.parent) for trial in plan.trials]
    others = {name: sha256_of(parts) for name in OTHERS if (parts := read_bytes(store, run, name))}
    return digest({
        "run": run, "recipe": plan.recipe, "claim": plan.claim, "commands": plan.commands, "rule": repr(plan.rule),
        "published": plan.published,
        "versions": dict(plan.versions), "trials": trials, "begun": begun, "excluded": repr(excluded),
        "geometry": geometry, "others": others, "code": _code(),
    })  # fmt: skip


@cache
def _code() -> dict[str, str]:
    own = {package: source_sha256(package) for package in ("analysis", "lth_trainable")}
    return {**own, "python": python_version(), **{name: version(name) for name in LIBRARIES}}


def list_settled(store: Store, run: str) -> tuple[dict[str, dict[str, fs.FileInfo]], int]:
    """The files of each trial, and when the listing began (in ns).

    If there are very many trials, and some were written in the last two seconds, it waits until all have a signature.
    """
    listed_at = time.time_ns()
    folders = list_trials(store, run)
    written = [info.mtime_ns for files in folders.values() for info in files.values() if info.mtime_ns is not None]
    left = max(written, default=0) + SETTLED_NS - listed_at
    if len(folders) < MANY or not 0 < left <= SETTLED_NS:
        return folders, listed_at
    time.sleep(left / 1e9)
    listed_at = time.time_ns()
    return list_trials(store, run), listed_at
