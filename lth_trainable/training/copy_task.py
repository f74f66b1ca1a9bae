"""A copy of a network as a task: everything that a process needs to train and store it, as plain values.

`analysis barrier` trains copies in its own process, `sweeps.barrier` as trials of Ray Tune; both come here, so a copy
has the same bytes and the same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.spec.rewind_point import RewindPoint
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.store.store import WEIGHTS, Damaged, Store
from lth_trainable.store.trials import load_masks
from lth_trainable.training.execution import Execution, fingerprint
from lth_trainable.training.instability import Copy, Start, pack_tensors, start_at, train_copy
from lth_trainable.training.trial import OnEpoch


@dataclass(frozen=True, kw_only=True)
class CopyTask:
    """A copy that is to be trained.

    path: where it is stored. trial, key, spec: of the network. state: where it starts, made under the fingerprint
    `trained_under`. rewound_to: that point of training. masked_by: folder of the ticket whose final mask it has; None
    for a dense network. fingerprint: under which the copy has to be trained. device, threads, deterministic,
    memory_format, compile, replicas: of its `Execution`.
    """

    path: str
    trial: str
    key: str
    spec: Mapping[str, Any]
    state: str
    trained_under: Mapping[str, Any]
    rewound_to: str
    masked_by: str | None
    order_seed: int
    fingerprint: Mapping[str, Any]
    device: str
    threads: int
    deterministic: bool
    memory_format: str
    compile: bool = False
    replicas: int = 1

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def execution(self, data_root: Path | None, step: str = "captured") -> Execution:
        """Where the copy is trained. step: see `Execution`; it does not change the bytes."""
        return Execution(
            data_root=data_root, device=self.device, threads=self.threads, deterministic=self.deterministic,
            memory_format=self.memory_format, compile=self.compile, replicas=self.replicas, step=step,
        )  # fmt: skip

    @property
    def spec_of_trial(self) -> TrialSpec:
        return spec_from_dict(self.spec)


def start_of(store: Store, task: CopyTask, execution: Execution) -> Start:
    """The start of a copy. Raises `UserError` if data, plug-ins or states are not those of the trial."""
    spec = task.spec_of_trial
    data = load_dataset(spec.dataset, execution.data_root, spec.split_seed, spec.image_size)
    check_same(spec, data.digest, task.key)
    masks = {}
    if task.masked_by is not None:
        folder = store.find(task.masked_by)
        if folder is None:
            raise Damaged(task.masked_by, "there is no manifest")
        levels = load_masks(store, folder)
        masks = levels[max(levels)] if levels else {}
    return start_at(
        spec, data, execution, store=store, state=task.state, fingerprint=task.trained_under,
        rewound_to=RewindPoint.parse(task.rewound_to), masks=masks,
    )  # fmt: skip


def check_same(spec: TrialSpec, data_digest: str, key: str) -> None:
    """Raise `UserError` if the data or the plug-ins here are not those that the trial was trained with."""
    if spec.key(data_digest) != key:
        raise UserError(
            f"{spec.name}: its data, or its plug-in code, is not what it was trained with; expected the same; restore "
            "it, or rerun the sweep under another --name"
        )


def make_copy(store: Store, task: CopyTask, start: Start, on_epoch: OnEpoch | None = None) -> Copy:
    """Train a copy and store it. on_epoch: called after each epoch with all rows so far."""
    copy = train_copy(replace(start, on_epoch=on_epoch), task.order_seed)
    about = {
        "kind": "copy", "trial": task.trial, "key": task.key, "start": task.state, "rewound_to": task.rewound_to,
        "order_seed": task.order_seed, "fingerprint": dict(task.fingerprint), "evaluation": dict(copy.evaluation),
    }  # fmt: skip
    store.seal(task.path, {WEIGHTS: pack_tensors(copy.tensors)}, about)
    return copy


def check_here(task: CopyTask, execution: Execution) -> None:
    """Raise `UserError` if a copy that is trained in this process would not be the one that was planned."""
    if fingerprint(execution, task.spec_of_trial) != dict(task.fingerprint):
        raise UserError(
            f"{task.trial}: found another fingerprint in the worker than the command has planned with; expected the "
            "same device and versions"
        )
