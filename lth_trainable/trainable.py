"""The Ray Tune adapter: each Ray Tune trial runs one `TrialSpec` with `run_trial`, on a worker that is reused."""

from __future__ import annotations

import json
import socket
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.store.store import FAILURE, FULL, MANIFEST, Store, is_no_space, to_json

if TYPE_CHECKING:
    from lth_trainable.training.execution import Execution

REPORT_SECONDS = 1.0  # between progress reports of a trial


def train(config: dict[str, Any], should_stop: Callable[[], bool] = lambda: False) -> None:
    """Run the trial of `config`. Ray gets progress, keys of states and the manifest; the store gets the rest.

    config: {trial, storage, task}; task is JSON of {spec, key, run, execution, keep, marks, resumable, end, log}. keep,
    marks, resumable: the fields of `Keep` (marks: `mid_epoch_points`). key: of the trial. end: of its last trained
    state. log: whether reports carry everything that is logged. If the trial raises, it leaves `failure.json` in its
    folder and fails in Ray, which may try again. should_stop: looked at after each epoch; if true, the state of the
    epoch is stored and reported, and the driver ends the trial.
    """
    from lth_trainable.training.execution import (  # so that torch is loaded in the workers, not in the driver
        Execution,
        fingerprint,
    )
    from lth_trainable.training.run import Keep, run_trial

    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    task = json.loads(config["task"])
    data_root = task["execution"].get("data_root")
    execution = Execution(**{**task["execution"], "data_root": data_root and Path(data_root)})
    spec, store, run = spec_from_dict(task["spec"]), Store(config["storage"]), task["run"]
    path = store.trial(run, spec.name)
    store.delete(f"{path}/{FAILURE}")
    progress = _Progress(task["end"], task["log"])
    keep = Keep(
        states=task["keep"], mid_epoch_points={int(step): key for step, key in task["marks"].items()},
        resumable=task["resumable"],
    )  # fmt: skip
    try:
        progress.fingerprint = json.dumps(fingerprint(execution))
        _check_same(spec, task["key"], execution)
        record = run_trial(
            spec,
            store,
            run,
            execution,
            progress.epoch,
            keep=keep,
            on_state=progress.state,
            on_note=progress.note,
            should_stop=should_stop,
        )
    except Exception as error:
        if is_no_space(error):  # not the trial's fault, so no failure.json; another attempt would not help
            tune.report({"status": FULL, "epochs_done": progress.epochs, **progress.news()})
            return
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        store.write(f"{path}/{FAILURE}", to_json({"reason": reason, "traceback": traceback.format_exc()}))
        if isinstance(error, UserError):  # another attempt would fail in the same way
            tune.report({"status": "failed", "epochs_done": progress.epochs, **progress.news()})
            return
        raise
    measures = {name: record["result"][name] for name in ("sparsity_pct", "test_accuracy")}
    progress.rows = record["epochs"]
    news = progress.news(record["result"])
    final = {"epochs_done": record["epochs_trained"], "status": record["status"], **measures, **news}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, MANIFEST).write_bytes(store.read(f"{path}/{MANIFEST}"))
        tune.report(final, checkpoint=tune.Checkpoint.from_directory(folder))


def _check_same(spec: TrialSpec, key: str, execution: Execution) -> None:
    """Refuse a trial whose data or plug-ins differ from those of the plan; nodes may read different files."""
    data = load_dataset(spec.dataset, execution.data_root, spec.split_seed)
    if spec.key(data.digest) != key:
        what = "data or plugged-in code" if spec.code_digests() else "data"
        raise UserError(
            f"{spec.name}: found other {what} on {socket.gethostname()} than the command has planned with; expected "
            "the same on every node while the command runs; correct that, then use --retry-failed"
        )


class _Progress:
    """Reports to Ray: stored states at once, because trials wait for them, and epochs at most once a second.

    end: key of the last trained state, which is reported with the result that follows at once. logged: whether reports
    carry everything that is logged.
    """

    def __init__(self, end: str, logged: bool) -> None:
        self.end, self.fingerprint, self.epochs, self.last = end, "{}", 0, time.monotonic()
        self.logged, self.reported = logged, 0
        self.rows: list[dict[str, Any]] = []
        self.stored: list[str] = []
        self.notes: list[str] = []

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        self.epochs += 1
        self.rows = rows
        if time.monotonic() - self.last >= REPORT_SECONDS:
            self._report()

    def state(self, key: str) -> None:
        self.stored.append(key)
        if key != self.end:
            self._report()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def news(self, result: dict[str, Any] | None = None) -> dict[str, Any]:
        """Everything not reported yet. result: of the trial, once it has ended."""
        # the fingerprint is text, because Tune flattens nested results
        news = {"stored": self.stored, "fingerprint": self.fingerprint, "notes": self.notes}
        self.stored, self.notes = [], []
        if self.logged:  # all epochs since the last report
            log = {"first": self.reported, "rows": self.rows[self.reported :], "result": result}
            news["log"], self.reported = json.dumps(log), len(self.rows)
        return news

    def _report(self) -> None:
        self.last = time.monotonic()
        row = self.rows[-1]
        tune.report({
            "epochs_done": self.epochs, "sparsity_pct": row["sparsity_pct"], "level": row["level"], **self.news(),
        })  # fmt: skip
