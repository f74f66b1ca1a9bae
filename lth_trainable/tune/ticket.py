"""One trial of a user's own Tuner: it trains what the flat config says, and reports each epoch to Ray Tune."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray import tune

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError, bad_value
from lth_trainable.spec.chain_json import chain_from_json
from lth_trainable.spec.segments import segments
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.spec.values import digest
from lth_trainable.store.checkpoint import CHECKPOINT, content_at, read_about
from lth_trainable.store.record import Identity
from lth_trainable.store.store import Store
from lth_trainable.training.execution import Execution, fingerprint
from lth_trainable.training.lifecycle import Keep, identity_of
from lth_trainable.training.restored import Restored
from lth_trainable.training.run import run_trial
from lth_trainable.tune.config import Ticket
from lth_trainable.tune.ray_adapter import checkpoint, reserved, store_beside_experiment
from lth_trainable.tune.reports import EpochReports

if TYPE_CHECKING:
    from lth_trainable.data.feeding import AnyDataset


def train_ticket(config: Mapping[str, Any]) -> None:
    """Train the trial of a flat config, and report each epoch, with a checkpoint at each level's end.

    The states at the levels' ends are stored, so that other trials start from them. Raises `UserError` or
    `StorageError` with a message that says everything.
    """
    ticket = Ticket.of(config)
    store = Store(ticket.storage) if ticket.storage is not None else store_beside_experiment()
    execution = _execution(ticket)
    dataset, *settings = ticket.spec.data_key
    data = load_dataset(dataset, execution.data_root, *settings)
    trial = _Own(ticket=ticket, store=store, execution=execution, data=data, before=_checkpoint_to_go_on_from())
    trial.run()


@dataclass(frozen=True, kw_only=True)
class _Own:
    """before: content of the checkpoint that Tune restores the trial from, None if there is none.

    Population-based training also moves checkpoints of finished trials. A trial then ends as the one it is a copy of.
    """

    ticket: Ticket
    store: Store
    execution: Execution
    data: AnyDataset
    before: Mapping[str, Any] | None

    def run(self) -> None:
        spec, restored = self.ticket.spec, None
        steps = -(-len(self.data.train) // spec.batch_size)
        if self.before is not None:
            if is_finished(self.before, spec, self.data.digest, steps):
                spec = spec_from_dict(self.before["spec"])
            restored = restored_from(self.before, spec, self.data.digest, steps)
            if restored is not None and self.execution.device.startswith("cuda"):
                _check_momentum(restored, spec, spec_from_dict(self.before["spec"]))
        identity = identity_of(spec, self.data.digest, steps, fingerprint(self.execution, spec), restored)
        told = 0 if self.before is None else int(self.before["epochs"])
        reports = EpochReports(identity.chain, self._teller(identity), told)
        ends = dict.fromkeys(reports.ends.values(), False)
        record = run_trial(
            spec, self.store, self.ticket.run, self.execution, reports.epoch,
            keep=Keep(states={**ends, identity.chain[-1].key: True}), on_state=reports.state, restored=restored,
        )  # fmt: skip
        reports.end(record, identity.state_keys["final"])

    def _teller(self, identity: Identity) -> Any:
        def tell(metrics: Mapping[str, Any], checkpoint_at: str | None, epochs: int) -> None:
            content = None
            if checkpoint_at is not None:
                content = content_at(
                    self.store, identity, checkpoint_at, run=self.ticket.run, epochs=epochs, shape=self.data.shape,
                    n_classes=len(self.data.classes),
                )  # fmt: skip
            with checkpoint(self.store, content) as made:
                tune.report(dict(metrics), checkpoint=made)

        return tell


def _execution(ticket: Ticket) -> Execution:
    """Where the trial runs: as its config says, or on what Tune has reserved for it."""
    cpus, gpus = reserved()
    return Execution(
        data_root=ticket.data_root, device=ticket.device or ("cuda" if gpus else "cpu"),
        threads=ticket.threads or max(1, int(cpus)),
    )  # fmt: skip


def _checkpoint_to_go_on_from() -> Mapping[str, Any] | None:
    found = tune.get_checkpoint()
    if found is None:
        return None
    with found.as_directory() as folder:
        about = read_about(folder)
    if about is None:
        raise UserError(f"{found.path}: found no {CHECKPOINT}; expected a checkpoint of ticket_trainable")
    return about


def is_finished(before: Mapping[str, Any], spec: TrialSpec, data_digest: str, steps: int) -> bool:
    """Whether this checkpoint is of a finished trial that a trial with these fields would not train further either."""
    return before.get("left") == 0 and len(segments(spec, data_digest, steps)) <= len(before["chain"])


def restored_from(before: Mapping[str, Any], spec: TrialSpec, data_digest: str, steps: int) -> Restored | None:
    """Where a trial goes on that Tune restores from this checkpoint; None if an ordinary trial would come there too.

    Then the trial finds its states in the store like any other. Raises `UserError` if it can be neither.
    """
    try:
        chain, old, about = chain_from_json(before["chain"]), spec_from_dict(before["spec"]), before["restored"]
        if old == spec:
            return None if about is None else _same_again(about, chain, before)
        if about is None and chain[-1].key in {segment.key for segment in segments(spec, data_digest, steps)}:
            return None
        lineage = digest({"state": chain[-1].key, "of": before["trial"]})
        found = Restored(trial=before["trial"], chain=chain, lineage=lineage, epochs=int(before["epochs"]))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"checkpoint: found a {CHECKPOINT} that is unreadable ({error}); start without it") from error
    found.check(spec, old)
    return found


def _check_momentum(restored: Restored, spec: TrialSpec, before: TrialSpec) -> None:
    """Raise `UserError` if only one of both trials moves its momentum: on a GPU their states are of two kinds."""
    if spec.cycles_momentum != before.cycles_momentum:
        raise bad_value(
            f"restored from {restored.trial}: lr_policy", spec.lr_policy,
            f"{before.lr_policy!r}, or on a GPU another one that moves the momentum if, and only if, this one does",
        )  # fmt: skip


def _same_again(about: Mapping[str, Any], chain: Any, before: Mapping[str, Any]) -> Restored:
    """A trial that was restored before, from its own checkpoint: its keys still depend on what it was restored from."""
    index = next(i for i, segment in enumerate(chain) if segment.key == about["state"])
    return Restored(
        trial=about["from"], chain=chain[: index + 1], lineage=about["lineage"], epochs=int(about["epochs"])
    )
