"""Where trials lie that were trained without a sweep: by `run_trial`, or by a Tuner of the user's own."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from analysis.adoption.experiments import (
    Asked,
    Experiment,
    Results,
    asked_for,
    is_experiment,
    is_run,
    of_folder,
    of_results,
    runs_in,
    store_beside,
)
from lth_trainable.errors import UserError, bad_value
from lth_trainable.store.store import PLAN, Store, split_query
from lth_trainable.store.trials import open_run, open_trial

Source = str | os.PathLike[str] | Store | Results
EXPECTED = "a folder that run_trial has written to, a store, or an experiment of ray.tune with ticket_trainable"


@dataclass(frozen=True, kw_only=True)
class Place:
    """The folder of a run: `run` in `store`.

    asked: what an experiment asked for; empty if there is none. is_itself: whether the source names this folder, and
    not one around it or in it.
    """

    store: Store
    run: str
    asked: Asked = field(default_factory=Asked)
    is_itself: bool = False

    @property
    def has_plan(self) -> bool:
        return self.store.exists(f"{self.run}/{PLAN}")


def find_place(source: Source) -> Place:
    """Where the trials of `source` lie. Raises `UserError` if there are none, or if they lie in several places."""
    if isinstance(source, Store):
        return _only_run(source, str(source.uri))
    if isinstance(source, str | os.PathLike):
        found = place_at(os.fspath(source))
        if found is None:
            raise bad_value("adopt", os.fspath(source), EXPECTED)
        return found
    if isinstance(source, Results):
        return _of_experiment(of_results(source))
    raise bad_value("adopt", type(source).__name__, f"{EXPECTED}; or its ResultGrid")


def place_at(path: str) -> Place | None:
    """The place of the trials at a path or URI; None if none are there."""
    text = path if "://" in path else os.path.realpath(os.path.expanduser(path))
    if "://" not in text and not Path(text).is_dir():
        return None
    store, run = open_run(text)
    if run and is_run(store, run):
        return Place(store=store, run=run, is_itself=True)
    if "/trials/" in split_query(text)[0]:
        store, run, _ = open_trial(text)
        if is_run(store, run):
            return Place(store=store, run=run)
    inside = Store(text)
    if is_experiment(inside):
        return _of_experiment(of_folder(inside))
    return _only_run(inside, path) if runs_in(inside) else None


def _only_run(store: Store, path: str) -> Place:
    runs = runs_in(store)
    if len(runs) != 1:
        listed = ", ".join(store.at(run) for run in runs[:8])
        raise UserError(
            f"{path}: found {f'several runs ({listed})' if runs else 'no trials'}; expected one run; "
            f"{'name it' if runs else 'run_trial and ticket_trainable make one'}"
        )
    return Place(store=store, run=runs[0])


def _of_experiment(experiment: Experiment) -> Place:
    asked, where = asked_for(experiment), experiment.store.uri
    beside = store_beside(experiment.store)
    if not asked.places and runs_in(beside):
        return replace(_only_run(beside, where), asked=asked)
    if len(asked.places) == 1:
        [(storage, run)] = asked.places
        store = Store(storage)
        if not experiment.is_own:  # a file is not followed out of its folder
            raise UserError(
                f"adopt: {where}: found trials whose records are in {store.at(run)}, as their configs say; expected "
                f"that folder itself, analysis.adopt({store.at(run)!r}), or the ResultGrid"
            )
        if is_run(store, run):
            return Place(store=store, run=run, asked=asked)
    if len(asked.places) > 1:
        listed = ", ".join(Store(storage).at(run) for storage, run in asked.places)
        raise UserError(f"adopt: {where}: found trials in several stores ({listed}); expected one; adopt each of them")
    why = f" ({asked.problems[0]})" if asked.problems else ""
    raise UserError(f"adopt: {where}: found no trials that ticket_trainable has finished{why}; expected at least one")
