"""What `--replicas auto` has measured and chosen: `.curves/` of a storage, and `RUN/replicas.json`.

A curve says how long a step of a stack takes, for some numbers of networks. It is kept for all runs of the storage. The
choice of a run is made once, before its first trial, because the bytes of its trials depend on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from lth_trainable.errors import UserError
from lth_trainable.spec.values import digest
from lth_trainable.stacking.times import Curve, Time
from lth_trainable.store.json_files import NotJson, seal_json, unseal_json
from lth_trainable.store.store import Store

CURVES = ".curves"
CHOICE = "replicas.json"
FORMAT = 1
OF_PLACE = 16  # letters of its digest


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The number of replicas of a run, and why, in words."""

    replicas: int
    why: str


def read_curves(store: Store, network: str) -> list[tuple[dict[str, Any], Curve]]:
    """The curves of a network, each with the place where it was measured.

    network: a digest of everything else that times depend on. Damaged ones are left out: they are measured again.
    """
    found = []
    for name in sorted(name for name in store.names(CURVES) if name.startswith(network)):
        with contextlib.suppress(FileNotFoundError, NotJson, ValueError, KeyError, TypeError):
            content = store.read_as(f"{CURVES}/{name}", unseal_json)
            times = tuple(
                Time(k=int(entry["k"]), step_s=float(entry["step_s"]), validation_s=float(entry["validation_s"]))
                for entry in content["times"]
            )
            curve = Curve(times=times, ended=str(content["ended"]), file=store.at(f"{CURVES}/{name}"))
            if times and content["format"] == FORMAT:
                found.append((dict(content["place"]), curve))
    return found


def write_curve(store: Store, network: str, place: Mapping[str, Any], curve: Curve, about: Mapping[str, Any]) -> Curve:
    """Keep a curve; returns it with its file. about: what it is of, for people."""
    times = [asdict(time) for time in curve.times]
    content = {"format": FORMAT, "place": dict(place), "network": dict(about), "times": times, "ended": curve.ended}
    path = f"{CURVES}/{network}-{digest(dict(place))[:OF_PLACE]}.json"
    store.write(path, seal_json(content))
    return replace(curve, file=store.at(path))


def read_choice(store: Store, run: str) -> Choice | None:
    """What was chosen when the run began; None if nothing was. Raises `UserError` for a damaged file."""
    path = f"{run}/{CHOICE}"
    try:
        found = store.read_as(path, unseal_json)
        return Choice(replicas=int(found["replicas"]), why=str(found["why"]))
    except FileNotFoundError:
        return None
    except (NotJson, ValueError, KeyError, TypeError) as error:
        problem = str(error) if isinstance(error, NotJson) else "its entries are not those of a choice"
        raise UserError(
            f"{store.at(path)}: found a damaged file ({problem}); expected what --replicas auto has chosen; give the "
            "number that the column `replicas` of the run's trials has, by --replicas K, or delete the file"
        ) from error


def write_choice(store: Store, run: str, choice: Choice) -> None:
    """Keep what was chosen for a run."""
    store.write(f"{run}/{CHOICE}", seal_json({"format": FORMAT, **asdict(choice)}))
