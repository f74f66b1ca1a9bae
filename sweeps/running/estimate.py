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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from statistics import median
from typing import Any

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.models.sizes import MOMENTS, tensors_of
from lth_trainable.spec.segments import needs_optimizer
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.words import name_part
from lth_trainable.store.store import STATES, TRAINING, WEIGHTS, Damaged, Sealed
from lth_trainable.store.trials import read_record
from sweeps.planning.plan import Node
from sweeps.planning.work import Work
from sweeps.running.cohorts import shapes_of
from sweeps.running.hardware import Hardware
from sweeps.running.resources import Resources
from sweeps.running.simulation import simulate
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


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Where the trials will run, and what is known of their pace.

    hardware: None for this machine. slots: trials at a time, or cohorts; None if unknown. told: seconds of an epoch,
    from the user. of_stack: of an epoch of a cohort, by what was measured of stacks; None: nothing was. unknown: why
    nobody knows yet how many networks will be trained as one; "" if that is known.
    """

    resources: Resources
    hardware: Hardware | None = None
    told: float | None = None
    of_stack: Measured | None = None
    unknown: str = ""

    @property
    def slots(self) -> int | None:
        """Trials at a time; None if unknown. Raises `UserError` if none fits."""
        return self.resources.slots() if self.hardware is None else self.hardware.slots(self.resources)

    def has(self, fingerprint: Mapping[str, Any]) -> bool:
        """Whether a trial with this fingerprint ran as these trials will."""
        kind, _, name = str(fingerprint["device"]).partition(":")
        if fingerprint.get("replicas", 1) != self.resources.replicas:
            return False
        if self.hardware is not None and self.resources.gpus:
            return kind == "cuda" and self.hardware.device in name.lower()
        execution = self.resources.execution()
        return (kind, fingerprint["threads"]) == (execution["device"], execution["threads"])


def estimate(
    ledger: Ledger, work: Work, done: Mapping[str, Sealed], stored: Collection[str], pace: Pace,
    data_root: Path | None, say: Callable[[str], None] = lambda _: None,
) -> Cost:  # fmt: skip
    """Time and disk space of the work that is left.

    done: the run's finished trials. stored: keys of states to continue from. say: hears what takes seconds.

    Raises `UserError`: why the trials cannot run on this machine, if that shows when one is trained for a moment.
    """
    spec = next(trial.spec for trial in ledger.plan.trials if trial.name in work.of_trial)
    measured, why = _measured(ledger, spec, done, pace, data_root, say)
    seconds = None
    if measured is not None and pace.slots is not None:
        seconds = WARM_UP_SECONDS + _rounds(ledger, work, done, stored, pace, pace.slots) * measured.per_epoch
    return Cost(
        seconds=seconds,
        bytes=_disk(ledger, work, spec, measured, data_root),
        per_epoch=None if measured is None else measured.per_epoch,
        source=measured.source if measured is not None else why,
    )


def _measured(
    ledger: Ledger, spec: TrialSpec, done: Mapping[str, Sealed], pace: Pace, data_root: Path | None,
    say: Callable[[str], None],
) -> tuple[Measured | None, str]:  # fmt: skip
    """How fast the trials are; or None, and why that is not known."""
    if pace.unknown:
        return None, pace.unknown
    found = _told(pace) or _recorded(ledger, spec, done, pace) or pace.of_stack
    if found is not None:
        return found, ""
    if pace.resources.replicas > 1:
        return None, not_measured_together(pace.resources.replicas)
    if pace.hardware is not None and (pace.slots is None or pace.resources.gpus):
        return None, NOT_MEASURED_THERE
    if len(ledger.plan.trials) > MOST_PROBED:
        return None, NOT_MEASURED
    say("measuring: one trial trains for a second, in a process that needs some seconds to start")
    return _probe(spec, data_root)


def _rounds(
    ledger: Ledger, work: Work, done: Collection[str], stored: Collection[str], pace: Pace, slots: int
) -> float:  # fmt: skip
    """Epochs of wall time. Cohorts are often not full, and never shorter for it, so theirs are simulated."""
    replicas = pace.resources.replicas
    if replicas == 1:
        return max(work.critical_path, work.epochs / slots)
    return simulate(ledger.plan, done, stored, slots, replicas, shapes_of(ledger)).epochs


def _told(pace: Pace) -> Measured | None:
    """The pace that the user gave."""
    if pace.told is None:
        return None
    return Measured(per_epoch=pace.told, bytes_per_state=None, source="as --seconds-per-epoch says, not measured")


NOT_MEASURED = (
    f"not measured for more than {MOST_PROBED:,} trials: no trial of this network is finished in the storage; the same "
    "command with --seeds 1 measures an epoch"
)

NOT_MEASURED_THERE = (
    "not measured on these devices: no trial of this network is finished on one of them in the storage; the same "
    "command with --seeds 1 there measures an epoch, or give it by --seconds-per-epoch"
)


def not_measured_together(replicas: int) -> str:
    """Why the time of cohorts is unknown."""
    return (
        f"not measured for --replicas {replicas} on this device: no trial of this network that was trained so is "
        "finished in the storage; --replicas auto measures when it starts, or give the time of an epoch of a cohort "
        "by --seconds-per-epoch"
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
    if size is None:
        return None
    shares = _shares(spec.optimizer)
    return size * sum(shares if _has_optimizer(node) else 1 for node in work.nodes) // shares


def _has_optimizer(node: Node) -> bool:
    """Whether the state at the end of a node is stored with its optimiser."""
    segment, _, end = node.parts[-1]
    through = node
    while not through.trials:
        through = through.children[0]
    return needs_optimizer(through.trials[0].spec, segment, end)


def _shares(optimizer: str) -> int:
    """How many times as large as its weights a state with an optimiser is, about."""
    return 1 + MOMENTS[optimizer]


# -- from finished trials ----------------------------------------------------------------------------------------------


def _recorded(ledger: Ledger, spec: TrialSpec, done: Mapping[str, Sealed], pace: Pace) -> Measured | None:
    """The pace of finished trials of the same network: of this run, else of others in the storage."""
    step = max(1, len(done) // SAMPLE)
    here = _paces(ledger, list(done.values())[::step], spec, pace)
    found, source = list(islice(here, SAMPLE)), "measured in this run"
    if not found:
        others = _paces(ledger, _others(ledger, spec), spec, pace)
        found, source = list(islice(others, SAMPLE)), "measured in other runs of the storage"
    if not found:
        return None
    sizes = [size for _, size, _ in found if size is not None]
    where = f", on {found[0][2]}" if pace.hardware is not None else ""
    return Measured(
        per_epoch=median(seconds for seconds, *_ in found), bytes_per_state=max(sizes, default=None),
        source=source + where,
    )  # fmt: skip


def _paces(
    ledger: Ledger, folders: Sequence[Sealed] | Iterator[Sealed], spec: TrialSpec, pace: Pace
) -> Iterator[tuple[float, int | None, str]]:
    """Of trials with this network and these resources: seconds of an epoch, bytes of a state, and the device."""
    wanted = {name: getattr(spec, name) for name in SAME}
    for folder in folders:
        try:
            record = read_record(ledger.store, folder)
            own, where = record["spec"], record["fingerprint"]
            alike = {name: own.get(name, getattr(TrialSpec, name, None)) for name in SAME} == wanted
            if alike and pace.has(where):
                seconds = median(row["seconds"] for row in record["epochs"])
                yield seconds, _state_bytes(ledger, folder, own["optimizer"]), str(where["device"])
        except (Damaged, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # whatever is wrong with it, an estimate does without it


def _state_bytes(ledger: Ledger, folder: Sealed, optimizer: str) -> int | None:
    """Bytes of a state with its optimiser, from that in which a trial ends; None if training cannot go on from it."""
    state = ledger.store.find(folder.manifest["states"]["final"])
    files = {} if state is None else state.manifest["files"]
    if state is None or TRAINING not in files:
        return None
    has_optimizer = state.manifest.get("optimizer", True)
    size: int = files[WEIGHTS]["size"] + files[TRAINING]["size"]
    return size if has_optimizer else size * _shares(optimizer)


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
