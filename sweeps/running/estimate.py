"""Estimate the time and disk space of a sweep without a training process of its own, where that is possible.

The time comes from finished trials of the same network, of this run or of another one in the storage. Without any, a
small sweep is measured: a trial trains for a moment in a process of its own, because torch and fastai need half a
gigabyte and several seconds. A large sweep is not: its time is unknown until something has been trained.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from statistics import median
from typing import Any

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.models.sizes import tensors_of
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.words import name_part
from lth_trainable.store.store import STATES, TRAINING, WEIGHTS, Damaged, Sealed
from lth_trainable.store.trials import read_record
from sweeps.planning.work import Work
from sweeps.running.resources import Resources
from sweeps.runs.ledger import Ledger

WARM_UP_SECONDS = 12.0  # to start Ray, and to import torch and fastai in each worker, on two cores
PROBE_SECONDS = 1.0
MOST_PROBED = 1000  # trials of a sweep whose time is measured; the plan of a larger one is all that a dry run does
SAMPLE = 9  # finished trials that are read
LOOKED_AT = 300  # finished trials of other runs that are looked at
# Fields that trials of the same pace have in common
SAME = ("dataset", "model", "batch_size", "width_pct", "augment", "image_size")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How fast trials are. per_epoch: seconds. bytes_per_state: None if unknown. source: how that was measured."""

    per_epoch: float
    bytes_per_state: int | None
    source: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The estimated cost of a sweep. None is unknown.

    seconds: wall time. bytes: of the states it will store. per_epoch: seconds. source: how per_epoch was measured, or
    why it was not.
    """

    seconds: float | None
    bytes: int | None
    per_epoch: float | None
    source: str


def estimate(
    ledger: Ledger, work: Work, done: Mapping[str, Sealed], resources: Resources, data_root: Path | None
) -> Cost:
    """Time and disk space of the work that is left. done: the run's finished trials. Raises `UserError`.

    The error says why the trials cannot run on this machine, if that shows when one is trained for a moment.
    """
    spec = next(trial.spec for trial in ledger.plan.trials if trial.name in work.of_trial)
    measured = _recorded(ledger, spec, done, resources)
    why = ""
    if measured is None and len(ledger.plan.trials) <= MOST_PROBED:
        measured, why = _probe(spec, data_root)
    per_epoch = None if measured is None else measured.per_epoch
    epochs = max(work.critical_path, work.epochs / resources.slots())
    return Cost(
        seconds=None if per_epoch is None else WARM_UP_SECONDS + epochs * per_epoch,
        bytes=_disk(ledger, work, spec, measured, data_root),
        per_epoch=per_epoch,
        source=measured.source if measured is not None else why or NOT_MEASURED,
    )


NOT_MEASURED = (
    f"not measured for more than {MOST_PROBED:,} trials: no trial of this network is finished in the storage; the same "
    "command with --seeds 1 measures an epoch"
)


def _disk(ledger: Ledger, work: Work, spec: TrialSpec, measured: Measured | None, data_root: Path | None) -> int | None:
    """Bytes of the states that the sweep will store; None if the size of one is unknown."""
    if ledger.plan.policy == "none":
        return 0
    size = None if measured is None else measured.bytes_per_state
    if size is None:
        data = load_dataset(spec.dataset, data_root, spec.split_seed, spec.image_size)
        tensors = tensors_of(spec.model, data.shape, len(data.classes), spec.width_pct)
        size = None if tensors is None else tensors.state_bytes(spec.optimizer)
    return None if size is None else size * len(work.nodes)


# -- from finished trials ----------------------------------------------------------------------------------------------


def _recorded(ledger: Ledger, spec: TrialSpec, done: Mapping[str, Sealed], resources: Resources) -> Measured | None:
    """The pace of finished trials of the same network: of this run, else of others in the storage."""
    step = max(1, len(done) // SAMPLE)
    here = _paces(ledger, list(done.values())[::step], spec, resources)
    found, source = list(islice(here, SAMPLE)), "measured in this run"
    if not found:
        others = _paces(ledger, _others(ledger, spec), spec, resources)
        found, source = list(islice(others, SAMPLE)), "measured in other runs of the storage"
    if not found:
        return None
    sizes = [size for _, size in found if size is not None]
    return Measured(
        per_epoch=median(seconds for seconds, _ in found), bytes_per_state=max(sizes, default=None), source=source
    )


def _paces(
    ledger: Ledger, folders: Sequence[Sealed] | Iterator[Sealed], spec: TrialSpec, resources: Resources
) -> Iterator[tuple[float, int | None]]:
    """Seconds of an epoch and bytes of a state of those trials that have the network and the resources of this one."""
    wanted = {name: getattr(spec, name) for name in SAME}
    execution = resources.execution()
    for folder in folders:
        try:
            record = read_record(ledger.store, folder)
            own, where = record["spec"], record["fingerprint"]
            alike = {name: own.get(name, getattr(TrialSpec, name, None)) for name in SAME} == wanted
            device = str(where["device"]).partition(":")[0]
            if alike and (device, where["threads"]) == (execution["device"], execution["threads"]):
                yield median(row["seconds"] for row in record["epochs"]), _state_bytes(ledger, folder)
        except (Damaged, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # whatever is wrong with it, an estimate does without it


def _state_bytes(ledger: Ledger, folder: Sealed) -> int | None:
    """Bytes of the state in which a trial ends; None if training does not continue from it."""
    state = ledger.store.find(folder.manifest["states"]["final"])
    files = {} if state is None else state.manifest["files"]
    return files[WEIGHTS]["size"] + files[TRAINING]["size"] if TRAINING in files else None


def _others(ledger: Ledger, spec: TrialSpec) -> Iterator[Sealed]:
    """Finished trials of other runs whose names start like those of this network."""
    store, start = ledger.store, f"{name_part('dataset', spec.dataset)}-{name_part('model', spec.model)}-"
    runs = [name for name in store.folders("") if name not in (STATES, ledger.run) and not name.startswith(".")]
    named = chain.from_iterable(
        (store.trial(run, name) for name in store.folders(f"{run}/trials") if name.startswith(start)) for run in runs
    )
    for path in islice(named, LOOKED_AT):
        try:
            folder = store.find(path)
        except (Damaged, UserError):
            continue
        if folder is not None:
            yield folder


# -- by training for a moment ------------------------------------------------------------------------------------------


def _probe(spec: TrialSpec, data_root: Path | None) -> tuple[Measured | None, str]:
    """Train the dense network for a moment, in a process of its own. Returns what it measured, or None and why not.

    Raises `UserError` if the trial cannot run.
    """
    root = None if data_root is None else str(data_root.resolve())
    request = {"spec": spec.canonical(), "data_root": root, "budget": PROBE_SECONDS}
    done = subprocess.run(
        [sys.executable, "-m", "lth_trainable.training.probe"], input=json.dumps(request), capture_output=True,
        text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):  # it was killed, for instance for want of memory
        return None, f"could not be measured: the process that trains for a moment ended with code {done.returncode}"
    if "error" in answer:
        raise UserError(f"{spec.name}: cannot be trained ({answer['error']})")
    measured = Measured(
        per_epoch=answer["seconds"], bytes_per_state=answer["bytes"], source="measured just now, on the CPU"
    )
    return measured, ""
