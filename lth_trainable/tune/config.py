"""The flat config of a user's own Tuner: the fields of a `TrialSpec`, and where the trial runs. Does not import Ray."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lth_trainable.errors import UserError, bad_value
from lth_trainable.scalars import plain
from lth_trainable.spec.trial_spec import DEFAULTS, TrialSpec, spec_from_dict
from lth_trainable.store.names import is_name
from lth_trainable.store.store import STATES

WHERE = ("storage", "run", "device", "threads", "data_root")
MEMBERS = "members"  # key of a task: those of the other members of its cohort, as far as they differ from it
CHAIN = "chain"  # key of the task of a trial that may have a record: its segments
TASK = "task"  # key of the config of a sweep's trial: what only its worker understands, as JSON
RUN = "tune"  # name of the run in the store that has the trials' records
_WHOLE = {f.name for f in fields(TrialSpec) if str(f.type).split(" ")[0] == "int"}


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """What a flat config asks for.

    storage: path or URI of the store; None: beside the experiment. run: name of the folder in it. device, threads: None
    for those that Tune has reserved for the trial. data_root: see `Execution`.
    """

    spec: TrialSpec
    storage: str | None
    run: str
    device: str | None
    threads: int | None
    data_root: Path | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Ticket:
        """Read a config. Search algorithms give NumPy scalars, and whole numbers as floats. Raises `UserError`."""
        unknown = [name for name in config if name not in DEFAULTS and name not in WHERE]
        if unknown:
            raise _unknown(unknown[0])
        values = {name: _plain(name, value) for name, value in config.items()}
        spec = TrialSpec(**{name: value for name, value in values.items() if name in DEFAULTS})
        run = values.get("run", RUN)
        if not is_name(run) or run == STATES:
            raise bad_value("config: run", run, "the name of a folder, such as tune")
        threads = values.get("threads")
        if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
            raise bad_value("config: threads", threads, "a whole number of at least 1")
        data_root = _place("data_root", values.get("data_root"))
        return cls(
            spec=spec, storage=_place("storage", values.get("storage")), run=run, device=values.get("device"),
            threads=threads, data_root=None if data_root is None else Path(data_root),
        )  # fmt: skip


def task_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The task in the config of a sweep's trial."""
    return _read_task(config[TASK])


def members_of(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tasks of all members of a cohort, the task's own first. Of a trial that trains alone only that."""
    own = {name: value for name, value in task.items() if name != MEMBERS}
    if not task.get(MEMBERS):
        return [own]
    values = spec_from_dict(task["spec"]).values
    return [own, *({**own, **other, "spec": {**values, **other["spec"]}} for other in task[MEMBERS])]


def as_member(other: Mapping[str, Any], task: Mapping[str, Any], spec: TrialSpec, of_task: TrialSpec) -> dict[str, Any]:
    """What a member's task has else than the task of its cohort. spec, of_task: of their trials."""
    changed = {name: value for name, value in spec.values.items() if value != of_task.values[name]}
    return {"spec": changed, **{name: v for name, v in other.items() if name != "spec" and v != task.get(name)}}


@functools.lru_cache(maxsize=64)  # of the trials that run; each report asks for it
def _read_task(text: str) -> Mapping[str, Any]:
    return MappingProxyType(json.loads(text))


def _unknown(name: str) -> UserError:
    near = difflib.get_close_matches(str(name), (*DEFAULTS, *WHERE), n=1, cutoff=0.5)
    advice = f"did you mean {near[0]}?" if near else "the fields are those of `help(lth_trainable.TrialSpec)`"
    return bad_value("config", name, f"a field of TrialSpec, or one of {', '.join(WHERE)}", advice)


def _plain(name: str, value: Any) -> Any:
    """A value as Python's own type."""
    value = plain(value.reshape(()) if getattr(value, "shape", None) == (1,) else value)
    if name in _WHOLE and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _place(name: str, value: Any) -> str | None:
    """An absolute path, or a URI. Ray starts each trial in a folder of its own, so a relative path means nothing."""
    if value is None:
        return None
    place = str(Path(value).expanduser()) if "://" not in str(value) else str(value)
    if "://" not in place and not Path(place).is_absolute():
        raise bad_value(f"config: {name}", place, "an absolute path or a URI", "a trial starts in a folder of its own")
    return place
