"""A plan for trials that were trained without one, made from their records and from what a Tuner asked for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.adoption.experiments import Asked
from analysis.adoption.sources import Place, place_at
from analysis.tables.records import Found, list_trials, read_trials
from analysis.tables.roles import role_of
from analysis.tables.run_plan import TERMS, Rule, find_run, names_run, read_content, read_terms, write_content
from analysis.tables.run_plan import role_of as role_of_fields
from analysis.tables.schema import RESTORED
from analysis.text import plural
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.store.store import PLAN, Store
from lth_trainable.versions import DISTRIBUTION, project_version

ADOPTED = "adopted"  # entry of such a plan
QUESTION = (
    "Do these tickets match their dense networks? (They were trained without a sweep: endpoint, margin and level of "
    "the verdict were not fixed before the first trial.)"
)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A run. shown: its path or URI for people. notes: on how it became one; None if it was one before."""

    store: Store
    run: str
    shown: str
    notes: tuple[str, ...] | None = None

    @property
    def of(self) -> tuple[Store, str]:
        return self.store, self.run


def find_or_adopt(path: str | os.PathLike[str]) -> Opened:
    """The run at `path`; if trials are there that no sweep has planned, a plan is made for them first.

    Raises `UserError` if there are no trials.
    """
    text = os.fspath(path).rstrip("/")
    try:
        store, run = find_run(text)
        return Opened(store=store, run=run, shown=text if names_run(text, run) else store.at(run))
    except UserError:
        place = place_at(text)
        if place is None or place.has_plan:
            raise
    notes = adopt_place(place, {})
    return Opened(
        store=place.store, run=place.run, shown=text if place.is_itself else place.store.at(place.run), notes=notes
    )


def adopt_place(place: Place, terms: Mapping[str, Any]) -> tuple[str, ...]:
    """Write the plan of the trials there, and return what should be known of them, one line each.

    A plan that a sweep has made stays as it is. terms: claim, endpoint, margin_pp and alpha; those left out are as
    before, or the defaults of `Rule`. Raises `UserError`.
    """
    before = read_content(place.store, place.run) if place.has_plan else None
    if before is not None and not before.get(ADOPTED):
        _check_same(place, before, terms)
        return ()
    if before is None and read_terms(place.store, place.run):
        raise UserError(
            f"{place.store.at(place.run)}: found {TERMS} but no {PLAN}, which somebody has deleted; expected both; "
            f"run the sweep's command again (finished trials stay), or delete {TERMS} to have the trials judged anew"
        )
    found = dict(read_trials(place.store, place.run, list(list_trials(place.store, place.run)), {}))
    entries = {name: _entry(one.record) for name, one in found.items() if one.record and one.status != RESTORED}
    records = [one.record for one in found.values() if one.record]
    missing = [spec for spec in place.asked.unfinished if spec.name not in entries]
    entries |= {spec.name: _asked(spec, records) for spec in missing}
    if not found:
        raise UserError(f"adopt: {place.store.at(place.run)}: found no trials; expected at least one")
    content = {**_content(before, terms), "versions": {DISTRIBUTION: project_version()}}
    known = {entry["name"]: entry for entry in (before or {"trials": []})["trials"]}
    content["trials"] = list({**known, **entries}.values())
    command = _command(place, terms)
    is_news = not content["commands"] or any(value is not None for value in terms.values())
    if is_news and command not in content["commands"]:
        content["commands"] = [*content["commands"], command]
    if before is not None and _terms(before) != _terms(content):
        place.store.delete(f"{place.run}/{TERMS}")  # else a kill before the next line would leave two rules
    write_content(place.store, place.run, content, before)
    return tuple(_notes(place.asked, missing, found))


def _command(place: Place, terms: Mapping[str, Any]) -> list[str]:
    """The command that does the same."""
    given = {f"--{name.replace('_', '-')}": str(value) for name, value in terms.items() if value is not None}
    words = [word for flag in given.items() for word in flag]
    return ["python", "-m", "analysis", "adopt", place.store.at(place.run), *words]


def _content(before: Mapping[str, Any] | None, terms: Mapping[str, Any]) -> dict[str, Any]:
    rule = Rule()
    default = {"endpoint": rule.endpoint, "margin_pp": rule.margin_pp, "alpha": rule.alpha, "claim": QUESTION}
    start = before or {"recipe": ADOPTED, ADOPTED: True, "keep_states": "needed", "looks": [], "commands": []}
    given = {name: value for name, value in terms.items() if value is not None}
    content = {**default, **start, **given}
    Rule(endpoint=content["endpoint"], margin_pp=content["margin_pp"], alpha=content["alpha"])
    return content


def _terms(content: Mapping[str, Any]) -> list[Any]:
    return [content[name] for name in ("endpoint", "margin_pp", "alpha")]


def _check_same(place: Place, plan: Mapping[str, Any], terms: Mapping[str, Any]) -> None:
    for name, value in terms.items():
        if value is not None and value != plan.get(name):
            raise UserError(
                f"adopt: {name}: found {value!r}; expected {plan.get(name)!r}, as the sweep of "
                f"{place.store.at(place.run)} fixed it before its first trial"
            )


def _entry(record: Mapping[str, Any]) -> dict[str, Any]:
    data = {name: record["data"][name] for name in ("digest", "n_train")}
    return {"name": record["trial"], "key": record["key"], "spec": record["spec"], "data": data, **_kin(record["spec"])}


def _asked(spec: TrialSpec, records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The entry of a trial without a record. Its key is known if another trial has the same data."""
    entry: dict[str, Any] = {"name": spec.name, "spec": spec.canonical(), **_kin(spec.canonical())}
    for record in records:
        other = record["spec"]
        if spec.data_key == (other["dataset"], other["split_seed"], *_size(other)):
            data = {name: record["data"][name] for name in ("digest", "n_train")}
            return {**entry, "data": data, "key": spec.key(data["digest"])}
    return entry


def _size(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    return () if spec.get("image_size") is None else (spec["image_size"],)


def _kin(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Role and parent of a trial; as far as its fields tell, if it needs a plug-in that is not here."""
    try:
        spec = spec_from_dict(fields)
        return {"role": role_of(spec), "parent": spec.parent}
    except UserError:
        return {"role": role_of_fields(fields), "parent": None}


def _notes(asked: Asked, missing: Sequence[TrialSpec], found: Mapping[str, Found]) -> Iterable[str]:
    restored = [name for name, one in found.items() if one.status == RESTORED]
    if restored:
        yield (
            f"{plural(len(restored), 'trial')} went on from the checkpoint of another with other settings, such as "
            f"{restored[0]}; this does not follow from a trial's own fields, so no verdict counts it"
        )
    if missing:
        yield (
            f"{plural(len(missing), 'trial')} of the experiment without a record, such as "
            f"{missing[0].name}: stopped by a scheduler, or failed; each counts as missing"
        )
    again = {name: n for name, n in Counter(asked.finished).items() if n > 1}
    if again:
        name, n = next(iter(again.items()))
        yield (
            f"{n} Ray trials are the same trial {name}: with equal fields and seed nothing is new, so they count once; "
            "replicates need seeds of their own"
        )
    others = set(found) - set(asked.finished) - {spec.name for spec in asked.unfinished} if asked.finished else set()
    if others := others - set(restored):
        yield (
            f"{plural(len(others), 'other trial')} in the same folder, such as {sorted(others)[0]}, "
            f"{'are' if len(others) > 1 else 'is'} judged with them"
        )
    if asked.problems:
        yield f"{plural(len(asked.problems), 'Ray trial')} trained no ticket, such as {asked.problems[0]}"
