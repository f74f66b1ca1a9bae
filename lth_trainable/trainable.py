"""The Ray Tune adapter: each Ray Tune trial runs one `TrialSpec` with `run_trial`, on a worker that is reused.

With replicas it may run several, a cohort (`lth_trainable/tune/cohort.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import tune

from lth_trainable.errors import StorageError
from lth_trainable.store.store import Store
from lth_trainable.store.trouble import ray_error
from lth_trainable.tune.attempt import AttemptAlone, End, TrialFailed, trouble_report
from lth_trainable.tune.cohort import CohortTrial
from lth_trainable.tune.config import MEMBERS, task_of


def ticket_trainable(config: dict[str, Any]) -> None:
    """One lottery-ticket trial for a Tuner of your own: `tune.Tuner(ticket_trainable, param_space={...})`.

    config: fields of `TrialSpec`, flat (`target_sparsity_pct`, `schedule`, `rewind_epoch`, `seed`, ...); those left out
    have their defaults. Where it runs, all optional: `storage`, path or URI of the store that has states and records
    (default: the folder "store" of the experiment; trials share the training of equal states of one store); `run`, name
    of the folder of the records in it; `device`, `threads` (default: what Tune reserves for the trial), `data_root`.

    Reports each epoch of each level: `valid_accuracy` (fraction), `valid_loss`, `train_loss`, `sparsity_pct`, `level`,
    `epoch`, `levels_done`; epochs that another trial has trained already are reported at once. Each level's end has a
    checkpoint, which `load_trial` reads. The last report has the record's results (`test_accuracy`, ...) and `status`.
    docs/ray_tune.md has examples. Raises `UserError` for a config that could not run.
    """
    from lth_trainable.tune.ticket import train_ticket  # torch

    train_ticket(config)


def train(config: dict[str, Any], should_stop: Callable[[], bool] = lambda: False) -> None:
    """Run the trial of a sweep. Ray gets progress, keys of states and checkpoints; the store gets the rest.

    config: the fields of the spec, for people, and `task`. task is JSON of {trial, storage, launch, spec, key, run,
    execution, keep, marks, resumable, end, log, silence, place}, and copy for a `CopyTask`, and members for a cohort.
    launch: id of the launch of Ray Tune. keep, marks, resumable: the fields of `Keep` (marks: `mid_epoch_points`). key:
    of the trial. end: of its last trained state. log: whether reports carry everything that is logged. silence: the
    limit of `Watch`. members: what the tasks of the others have else (`members_of`).
    should_stop: looked at after each epoch; if true, the state of the epoch is stored and reported, and the driver ends
    the trial.

    An attempt that fails leaves `failure.json` in the trial's folder. Then this raises `TrialFailed`, whereupon Ray
    ends this worker and tries again on a new one. The second failure in a launch is the last: the attempt after it does
    not train, but only reports the status "failed". A mistake of the user (`UserError`) fails at once.
    If the storage fails, that is not the trial's fault: it leaves no failure, and the report says what the trouble is.
    Nor is it if it shares a GPU (place: where it runs, and beside how many) and finds no memory there.
    A member of a cohort that fails does not end the others: the driver hands it out again.
    """
    task = task_of(config)
    if task.get(MEMBERS):
        CohortTrial(task, should_stop).run()
        return
    attempt = AttemptAlone(task, should_stop)
    end: End | TrialFailed
    try:
        end = attempt.run()
    except BaseException as error:  # SystemExit too: Tune would take it for the end of the worker
        if attempt.progress.is_stopped:
            raise
        end = attempt.fail(error)
    if isinstance(end, TrialFailed):
        raise end  # here, where the exception itself is no longer its context
    try:
        end.tell()
    except OSError as error:  # Ray copies the checkpoint to the storage
        tune.report(trouble_report(ray_error(Store(attempt.task["storage"]), error)))
    except StorageError as error:
        tune.report(trouble_report(error))
