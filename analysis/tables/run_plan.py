"""`<run>/plan.json`: which trials a run has, and the rule of its verdict, fixed before the first trial.

The file is sealed (`store/json_files.py`): a changed bit is found wherever the plan is read. Version 0.4.0 wrote format
1, which has no checksum; it is still read, and written anew in format 2 when a command adds to the run.

`<run>/terms.json`, sealed too, holds the rule once more, so that it stays fixed if the plan is lost or deleted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from analysis.tables.schema import ROLES, SPEC_FIELDS
from lth_trainable.errors import UserError, bad_value
from lth_trainable.scalars import plain_fields
from lth_trainable.store.json_files import NotJson, seal_json, unseal_json
from lth_trainable.store.names import is_name
from lth_trainable.store.store import PLAN, Store, split_query
from lth_trainable.store.trials import open_run

FORMAT = 2
UNSEALED = 1  # the format of version 0.4.0
TERMS = "terms.json"
KEPT = "machine.json"  # in results that `export/results.py` has kept
ALPHA = 0.025  # one-sided: what the two-sided 95 % interval shows, the test decides
FORMER_ALPHA = 0.05  # the default of version 0.4.0, which its runs keep
FORMER_MARGINS = {"digits": 1.0, "digits_tutorial": 1.0}  # pp, of the recipes of version 0.4.0 that have another now
PUBLISHED = "published"  # claims of papers and their margins, see `analysis/published/claims.py`
TERM_NAMES = ("endpoint", "margin_pp", "alpha", "looks", PUBLISHED)
QUESTION = "At which sparsity do winning tickets stop matching the dense network?"
ENDPOINTS = ("test_accuracy", "valid_accuracy", "best_valid_accuracy", "early_stop_test_accuracy")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a run is judged. `endpoint`: a column of trials; `margin_pp`: percentage points; `alpha`: one-sided level.

    looks: numbers of seeds at which a group-sequential run is judged; empty where it is judged once. tuned: whether
    tickets and dense networks have learning rates of their own, which were chosen on validation.
    """

    endpoint: str = "test_accuracy"
    margin_pp: float = 0.5
    alpha: float = ALPHA
    looks: tuple[int, ...] = ()
    tuned: bool = False

    def __post_init__(self) -> None:
        plain_fields(self, "margin_pp", "alpha", "looks")
        if self.endpoint not in ENDPOINTS:
            raise bad_value("endpoint", self.endpoint, f"one of {', '.join(ENDPOINTS)}")
        if not _is_number(self.margin_pp) or not 0 < self.margin_pp < 100:
            raise bad_value("margin_pp", self.margin_pp, "percentage points, more than 0 and less than 100")
        if not _is_number(self.alpha) or not 0 < self.alpha < 0.5:
            raise bad_value("alpha", self.alpha, "a probability, more than 0 and less than 0.5")
        if not all(isinstance(n, int) and n > before for before, n in pairwise((1, *self.looks))):
            raise bad_value("looks", list(self.looks), "increasing numbers of seeds, 2 or more, such as 5, 8, 12")


@dataclass(frozen=True, kw_only=True)
class PlanEntry:
    """A trial that the run is to have: its name, its key, its canonical spec.

    role: one of `schema.ROLES`; parent: name of the ticket whose branch it is.
    """

    name: str
    key: str | None
    spec: Mapping[str, Any]
    role: str
    parent: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The content of `plan.json`. claim: the question of the recipe; commands: those that planned it, oldest first.

    tuning: how learning rates were tuned, in a sentence; None if they were not. published: claims of papers that the
    run is held against, as plan.json has them.
    """

    recipe: str
    claim: str
    commands: tuple[tuple[str, ...], ...]
    versions: Mapping[str, str]
    rule: Rule
    trials: tuple[PlanEntry, ...]
    tuning: str | None = None
    published: tuple[Mapping[str, Any], ...] = ()


def find_run(path: str | os.PathLike[str]) -> tuple[Store, str]:
    """The store and the run's name at `path`, such as `runs/digits`. Raises `UserError` where there is no run.

    The folder of a store with a single run, and that of an experiment of Ray Tune with such a store, name that run.
    """
    text = os.fspath(path)
    store, run = open_run(text if "://" in text else Path(os.path.realpath(os.path.expanduser(text))))
    if not run or not _is_run(store, run):
        inside = _only_run_in(text)
        if inside is not None:
            return inside
        raise bad_value("RUN", text, f"the folder of a run, with a {PLAN}", _nearby(store))
    return store, run


def read_plan(store: Store, run: str) -> RunPlan:
    """The plan of a run. Raises `UserError` where the file is not one of this version."""
    content = read_content(store, run)
    with _readable(run):
        return RunPlan(
            recipe=content["recipe"],
            claim=content.get("claim") or QUESTION,
            commands=tuple(tuple(command) for command in content["commands"]),
            versions=dict(content["versions"]),
            rule=_rule(content),
            trials=tuple(_planned(entry) for entry in content["trials"]),
            tuning=(content.get("tuning") or {}).get("sentence"),
            published=tuple(content.get(PUBLISHED, ())),
        )


def read_content(store: Store, run: str) -> dict[str, Any]:
    """The plan of a run as it is written. Raises `UserError` where the file is damaged, or not one of this version.

    Raises FileNotFoundError where there is no plan.
    """
    with _readable(run):
        content = store.read_as(f"{run}/{PLAN}", lambda raw: unseal_json(raw, UNSEALED))
        if content["format"] not in (FORMAT, UNSEALED):
            where, advice = f"{run}/{PLAN}, format", "read the run with the version that wrote it"
            raise bad_value(where, content["format"], str(FORMAT), advice)
        _check_names(run, content["trials"])
        _check_terms(run, content, read_terms(store, run))
        return content


def write_content(store: Store, run: str, content: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> None:
    """Write the plan of a run, sealed, and then its terms. before: the plan there; it is not written again as it is."""
    plan = {**content, "format": FORMAT}
    if plan != before:
        store.write(f"{run}/{PLAN}", seal_json(plan))
    terms = seal_json(terms_of(content))
    if store.read_if_file(f"{run}/{TERMS}") != terms:
        store.write(f"{run}/{TERMS}", terms)


def terms_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The terms of the verdict in a plan: what a `Rule` has, and the claims that the run is held against."""
    return {"looks": [], **{name: content[name] for name in TERM_NAMES if name in content}}


def read_terms(store: Store, run: str) -> dict[str, Any]:
    """The terms that were fixed before the first trial; empty if they are not there, or damaged beside a plan.

    They are needed only where there is no plan; then damage raises `UserError`.
    """
    path = f"{run}/{TERMS}"
    if not store.exists(path):
        return {}
    try:
        return store.read_as(path, unseal_json)
    except NotJson as error:
        if store.exists(f"{run}/{PLAN}"):  # it has the terms too; the next command of the run writes them again
            return {}
        raise UserError(
            f"{path}: not readable as the terms of a verdict ({error}); restore it, or delete it: then the terms of "
            "the next command hold"
        ) from error


def _check_names(run: str, trials: list[Mapping[str, Any]]) -> None:
    """Raise `UserError` if a plan names a trial that cannot be a folder of this run."""
    for entry in trials:
        for name in (entry["name"], *([entry["parent"]] if entry.get("parent") is not None else [])):
            if not is_name(name):
                raise bad_value(f"{run}/{PLAN}, trial", name, "the name of a folder", "restore the file")


def _check_terms(run: str, content: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Raise `UserError` if a plan has other terms than those that were fixed."""
    if PUBLISHED in fixed and content.get(PUBLISHED) != fixed[PUBLISHED]:
        raise UserError(
            f"{run}/{PLAN}, {PUBLISHED}: found other claims or margins than in {TERMS}; expected the same; one of them "
            f"is of another run: restore {PLAN}"
        )
    for name, value in terms_of(content).items():
        if fixed.get(name, value) != value:
            expected, advice = f"{fixed[name]!r}, as in {TERMS}", f"one of them is of another run: restore {PLAN}"
            raise bad_value(f"{run}/{PLAN}, {name}", value, expected, advice)


@contextlib.contextmanager
def _readable(run: str) -> Iterator[None]:
    """Turn errors about a malformed plan into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{run}/{PLAN}: not readable as a plan ({problem}); expected what a sweep writes there; restore it, or "
            "delete it and type the run's commands again: finished trials stay"
        ) from error


def role_of(spec: Mapping[str, Any]) -> str:
    """The role of a trial as far as its spec tells it, for plans of earlier versions, which do not store roles."""
    return {"none": "ticket", "dense": "dense"}.get(spec["control"], "control")


def _rule(content: Mapping[str, Any]) -> Rule:
    return Rule(
        endpoint=content["endpoint"], margin_pp=content["margin_pp"], alpha=content["alpha"],
        looks=tuple(content.get("looks", ())), tuned=bool(content.get("tuning")),
    )  # fmt: skip


def check_fields(where: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `spec`. Raises `UserError` for a field that this version does not know: two groups could look like one."""
    unknown = sorted(set(spec) - set(SPEC_FIELDS))
    if unknown:
        raise UserError(f"{where}: unknown fields {', '.join(unknown)} in the spec; it was written by a newer version")
    return spec


def _planned(entry: Mapping[str, Any]) -> PlanEntry:
    spec = check_fields(f"{PLAN}, trial {entry['name']}", entry["spec"])
    role = entry.get("role") or role_of(spec)
    if role not in ROLES:
        raise bad_value(f"{PLAN}, trial {entry['name']}, role", role, f"one of {', '.join(ROLES)}")
    return PlanEntry(name=entry["name"], key=entry.get("key"), spec=spec, role=role, parent=entry.get("parent"))


def _is_run(store: Store, run: str) -> bool:
    try:
        return store.exists(f"{run}/{PLAN}")
    except OSError:  # a file where a folder should be
        return False


def names_run(path: str, run: str) -> bool:
    """Whether `path` is that of this run, and not of a folder around it."""
    return split_query(path)[0].rstrip("/").rpartition("/")[2] == run and _only_run_in(path) is None


def _only_run_in(path: str) -> tuple[Store, str] | None:
    """The run in a store that has only one, or in the store of an experiment; None if it has no plan."""
    if "://" not in path and not Path(path).expanduser().is_dir():
        return None
    base, query = split_query(path)
    for inside in (path, f"{base.rstrip('/')}/store{query}"):
        store = Store(inside)
        planned = [name for name in store.folders("") if _is_run(store, name)]
        if planned and not any(store.names(f"{name}/trials") for name in store.folders("") if name not in planned):
            return (store, planned[0]) if len(planned) == 1 else None
    return None


def _nearby(store: Store) -> str:
    """Runs of the same storage, for the message; listing may fail where the storage itself does not exist."""
    try:
        runs = [name for name in store.folders("") if _is_run(store, name)]
    except (OSError, UserError):
        runs = []
    return f"runs there: {', '.join(runs[:8])}" if runs else "a sweep makes one: python -m sweeps.lth_grid"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
