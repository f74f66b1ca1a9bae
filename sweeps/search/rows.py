"""The rows of suggestions.parquet: what the study knows of each suggestion, and what the tables know of its trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from analysis.tables.suggestions import DIVERGED, SCHEMA, diverged, measured
from analysis.text import plural
from sweeps.search.searches import Search
from sweeps.search.study import ON_WAY, Study

_STATUS = {"COMPLETE": "done", "PRUNED": "stopped", "FAIL": "failed"}
Row = Mapping[str, Any]


def rows_of(study: Study, search: Search, trials: Mapping[str, Row]) -> list[dict[str, Any]]:
    """A row for each suggestion that makes trials. trials: rows of trials.parquet by name.

    A suggestion diverged if one of its tickets did, or in a paired search one of its dense trials: the sampler was
    given the accuracy of chance for it, which is no result. It is not on the front and hides nobody there.
    """
    of = {t.number: [trials[name] for name in t.user_attrs.get("trials", ()) if name in trials] for t in study.trials()}
    lost = {number: names for number, mine in of.items() if (names := diverged(mine, search.score == "paired"))}
    front = study.front_without(lost)
    return [
        _row(trial, of[trial.number], lost.get(trial.number, []), trial.number in front)
        for trial in study.trials()
        if "trials" in trial.user_attrs
    ]


def _row(trial: FrozenTrial, mine: Sequence[Row], lost: Sequence[str], on_front: bool) -> dict[str, Any]:
    ticket = next((row for row in mine if row["control"] == "none"), {})
    status, reason = _STATUS.get(trial.state.name, "open"), trial.user_attrs.get("reason")
    if lost and status in ("done", "stopped"):
        status, reason = DIVERGED, f"{plural(len(lost), 'trial')} of {len(mine)} diverged: {', '.join(lost)}"
    is_known = ticket.get("sparsity_pct") is not None  # else its record is damaged
    spec = {name: ticket.get(name) for name in SCHEMA.names if name in ticket}
    return {
        **spec, **measured(mine), "suggestion": trial.number, "status": status, "reason": reason,
        "on_front": on_front and is_known, "objective_accuracy": trial.user_attrs.get("accuracy"),
        "epochs_alone": None if "epochs" not in trial.user_attrs else round(trial.user_attrs["epochs"]),
        "trials": list(trial.user_attrs["trials"]), "on_the_way_of": trial.user_attrs.get(ON_WAY),
    }  # fmt: skip
