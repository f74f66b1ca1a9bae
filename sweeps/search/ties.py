"""Which study belongs to which run, and whether a study that exists is one of this search.

A study in a database of its own outlives the folder of its run, and may hold what others have done. So the run notes an
id in `RUN/study.json`, and the study and all its trials of this search have it as an attribute.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from lth_trainable.errors import UserError, bad_value
from lth_trainable.safe_text import one_line
from lth_trainable.store.contents import TEXT
from lth_trainable.store.json_files import NotJson, object_from_json, to_json
from lth_trainable.store.layout import Entries
from lth_trainable.store.store import Store
from sweeps.search.places import STUDY, Given, InRun, Place
from sweeps.search.searches import OBJECTIVES, OWN, TPE, Search

NOTE = "study.json"
TERMS, ID, RUN = "terms", "search_id", "run"  # attributes of the study; its trials have the id, too
EARLIER = {"sampler": TPE}  # what studies began with whose terms do not say it
DIRECTION = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}


def id_of(store: Store, run: str, place: Place) -> str | None:
    """The id of the search in a study that others may use, as the run's folder has it; None for the run's own study.

    A new one must be noted, by `note_place`, before the study has it. Raises `UserError` if the run has its study in
    another place.
    """
    noted = _noted(store, run)
    if isinstance(place, InRun):
        if noted is not None:
            raise UserError(f"{store.at(run)}: its study is {noted['study']}; give it with --study")
        return None
    if store.exists(f"{run}/{STUDY}"):
        raise UserError(
            f"{store.at(run)}: its study is {store.at(run)}/{STUDY}; run the command without --study, or choose "
            "another --name"
        )
    if noted is None or _is_in_memory(place):
        return uuid.uuid4().hex
    return str(noted["id"])


def note_place(store: Store, run: str, place: Place, search_id: str | None) -> None:
    """Write into the run's folder where its study is, unless it is there, or ends with the process."""
    if search_id is not None and not _is_in_memory(place) and _noted(store, run) is None:
        store.write(f"{run}/{NOTE}", to_json({"id": search_id, "study": place.shown}))


def _is_in_memory(place: Place) -> bool:
    return isinstance(place, Given) and place.is_in_memory


def check_owner(study: optuna.Study, place: Place, store: Store, run: str, search_id: str | None) -> None:
    """Raise `UserError` if a study belongs to the search of another run, or the run to another study."""
    known = study.user_attrs
    if search_id is None or known.get(ID) == search_id:
        return
    if ID in known or TERMS in known:
        raise UserError(
            f"study {study.study_name!r} in {place.shown}: belongs to the search {_text(known.get(RUN))}; choose "
            "another --name"
        )
    noted = _noted(store, run)
    if noted is not None and noted["study"] != place.shown:
        raise UserError(
            f"{store.at(run)}: its study is {noted['study']}; found none of it in {place.shown}; give the first one"
        )


def directions_of(search: Search) -> list[StudyDirection]:
    """In which direction a study of this search optimises each objective."""
    return [DIRECTION[OBJECTIVES[name]] for name in search.objectives]


def check_fits(study: optuna.Study, search: Search, place: Place) -> None:
    """Raise `UserError` if a study that exists has other objectives, or trials over other axes."""
    where = f"study {study.study_name!r} in {place.shown}"
    names, directions = list(search.objectives), directions_of(search)
    if study.directions != directions or (study.metric_names or names) != names:
        words = [direction.name.lower() for direction in directions]
        make = f"make one with optuna.create_study(directions={words})"
        raise bad_value(
            where, _objectives(study.metric_names, study.directions), _objectives(names, directions),
            make if isinstance(place, Given) else "choose another study, or another --name",
        )  # fmt: skip
    axes = {name: axis.distribution for name, axis in search.axes.items()}
    for trial in study.get_trials(deepcopy=False):
        for name, drawn in trial.distributions.items():
            if name not in axes:
                raise bad_value(
                    where, f"trial {trial.number} over {name}", f"trials over {', '.join(axes)}",
                    "choose another study, or another --name",
                )  # fmt: skip
            try:
                check_distribution_compatibility(drawn, axes[name])
            except ValueError as error:
                raise bad_value(
                    where, f"trial {trial.number} with {name} from {drawn}", f"{name} from {search.axes[name]}",
                    "choose another study, or another --name",
                ) from error  # fmt: skip


def check_terms(study: optuna.Study, search: Search, where: str) -> None:
    """Raise `UserError` if what may not change in a search has changed. where: the run, for the message."""
    known = json.loads(study.user_attrs.get(TERMS, "null"))
    if known is None:
        return
    Entries().check(TERMS, known)
    for name, value in search.terms().items():
        began = known.get(name, EARLIER.get(name))
        if began != value:
            was, now = ("the sampler of a study of your own" if v == OWN else repr(v) for v in (began, value))
            raise UserError(f"{where}: its search began with {name} {was}; found {now}; choose another --name")


def tie(study: optuna.Study, search: Search, path: str, search_id: str | None) -> None:
    """Write into a study to which run and search it belongs. path: of the run, for whoever looks at the study."""
    known = study.user_attrs
    if search_id is not None and known.get(ID) != search_id:
        study.set_user_attr(ID, search_id)
    if TERMS not in known:
        study.set_user_attr(TERMS, json.dumps(search.terms()))
    if known.get(RUN) != path:
        study.set_user_attr(RUN, path)
    study.set_metric_names(list(search.objectives))


def is_mine(trial: FrozenTrial, search_id: str | None) -> bool:
    """Whether the search of this id has asked for a trial; in a study of its own (None), it has asked for all."""
    return search_id is None or trial.user_attrs.get(ID) == search_id


def _noted(store: Store, run: str) -> Mapping[str, Any] | None:
    path = f"{run}/{NOTE}"
    if not store.exists(path):
        return None
    try:
        noted = store.read_as(path, object_from_json)
        Entries(needed={"id": TEXT, "study": TEXT}).check("", noted)
    except (NotJson, ValueError) as error:
        raise UserError(
            f"{store.at(path)}: cannot be read ({error}); move it away, and choose another --name"
        ) from error
    return noted


def _objectives(names: list[str] | None, directions: list[StudyDirection]) -> str:
    words = [direction.name.lower() for direction in directions]
    return ", ".join(f"{word} {name}" for word, name in zip(words, names or ["?"] * len(words), strict=True))


def _text(value: object) -> str:
    return one_line(value) if isinstance(value, str) else "of another run"
