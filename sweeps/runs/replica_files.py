"""What `--replicas auto` has measured and chosen: `states/curves/KEY.json` of a storage, and `RUN/replicas.json`.

A curve says how long a step of a stack takes, for some numbers of networks. It is kept for all runs of the storage. The
choice of a run is made once, before its first trial, because the bytes of its trials depend on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lth_trainable.errors import UserError
from lth_trainable.stacking.times import Curve, Time
from lth_trainable.store.json_files import NotJson, seal_json, unseal_json
from lth_trainable.store.store import STATES, Store

CURVES = f"{STATES}/curves"
CHOICE = "replicas.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The number of replicas of a run, and why, in words."""

    replicas: int
    why: str


def read_curve(store: Store, key: str) -> Curve | None:
    """The curve with this key; None if there is none, or if it is damaged: then it is measured again."""
    with contextlib.suppress(FileNotFoundError, NotJson, ValueError, KeyError, TypeError):
        content = store.read_as(f"{CURVES}/{key}.json", unseal_json)
        times = tuple(Time(k=int(e["k"]), step_s=float(e["step_s"]), validation_s=float(e["validation_s"]))
                      for e in content["times"])  # fmt: skip
        if times and content["format"] == FORMAT:
            return Curve(times=times, ended=str(content["ended"]), file=store.at(f"{CURVES}/{key}.json"))
    return None


def write_curve(store: Store, key: str, times: Sequence[Time], ended: str, about: Mapping[str, Any]) -> Curve:
    """Keep a curve. about: what it is of, for people."""
    content = {"format": FORMAT, "times": [asdict(time) for time in times], "ended": ended, "about": dict(about)}
    store.write(f"{CURVES}/{key}.json", seal_json(content))
    return Curve(times=tuple(times), ended=ended, file=store.at(f"{CURVES}/{key}.json"))


def read_choice(store: Store, run: str, device: str) -> Choice | None:
    """What was chosen when the run began on this device; None if nothing was. Raises `UserError` for a damaged file."""
    path = f"{run}/{CHOICE}"
    try:
        found = _choices(store, path).get(device)
        return None if found is None else Choice(replicas=int(found["replicas"]), why=str(found["why"]))
    except (NotJson, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = str(error) if isinstance(error, NotJson) else "its entries are not those of a choice"
        raise UserError(
            f"{store.at(path)}: found a damaged file ({problem}); expected what --replicas auto has chosen; give the "
            "number that the column `replicas` of the run's trials has, by --replicas K, or delete the file"
        ) from error


def write_choice(store: Store, run: str, device: str, choice: Choice) -> None:
    """Keep what was chosen for a run on this device."""
    path = f"{run}/{CHOICE}"
    content = {"format": FORMAT, "choices": {**_choices(store, path), device: asdict(choice)}}
    store.write(path, seal_json(content))


def _choices(store: Store, path: str) -> dict[str, Any]:
    """Choices by device. Raises `NotJson`, or others if the entries are not those of this file."""
    try:
        return dict(store.read_as(path, unseal_json)["choices"])
    except FileNotFoundError:
        return {}
