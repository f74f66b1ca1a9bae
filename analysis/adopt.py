"""Gather and judge trials that no sweep has planned: of `run_trial`, or of a Tuner of the user's own."""

from __future__ import annotations

from typing import Any

from analysis.adoption.plan import adopt_place
from analysis.adoption.sources import Source, find_place
from analysis.gather import gather_run
from analysis.run import Run, unpaired
from analysis.tables.index import Geometry
from lth_trainable.errors import bad_value


def adopt(
    source: Source,
    *,
    claim: str | None = None,
    endpoint: str | None = None,
    margin_pp: float | None = None,
    alpha: float | None = None,
    geometry: Geometry | None = None,
) -> Run:
    """Make a run of finished trials, with tables, verdicts and report, and return its results.

    source: a folder that `run_trial` has written to (such as `runs/alone`), its store, the folder of an experiment of
    Ray Tune with `ticket_trainable`, or its `ResultGrid`, also a restored one. Nothing is copied: the run is the folder
    that has the records, and afterwards `python -m analysis` takes it like that of a sweep.
    claim, endpoint, margin_pp, alpha: the question and the rule of the verdict; see `analysis.tables.run_plan.Rule`.
    geometry: see `gather`.

    Each ticket is compared with the dense network of the same fields and seed, if it is among the trials; the notes say
    what is missing. Trials that went on from another's checkpoint with other settings are shown, but not judged. Raises
    `UserError` if there are no trials.
    """
    place = find_place(source)
    if claim is not None and not isinstance(claim, str):
        raise bad_value("adopt, claim", claim, "a question, as text")
    terms: dict[str, Any] = {"claim": claim, "endpoint": endpoint, "margin_pp": margin_pp, "alpha": alpha}
    folder = place.store.at(place.run)
    notes = adopt_place(place, terms)
    frames = gather_run(place.store, place.run, geometry)
    statuses = set(frames.tables["trials"]["status"].to_pylist())
    return Run(
        folder=folder, frames=frames, ok=statuses <= {"done", "diverged", "restored", "excluded"},
        notes=(*notes, *unpaired(frames)),
    )  # fmt: skip
