"""The Ray adapter: one Ray Tune trial is one `TrialSpec`, run by `run_trial` on a warm worker."""

from __future__ import annotations

import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from ray import tune

from lth_trainable.errors import UserError
from lth_trainable.spec import spec_from_dict
from lth_trainable.store import FAILURE, MANIFEST, Store, to_json

REPORT_SECONDS = 1.0  # between progress reports of a trial


def train(config: dict[str, Any]) -> None:
    """Run the trial of `config` ({spec, storage, run, execution}); Ray gets progress and manifest, the store the rest.

    A trial that raises leaves `failure.json` in its folder and fails in Ray, which may try again.
    """
    from lth_trainable.execution import Execution  # torch loads in the workers, not in the driver
    from lth_trainable.run import run_trial

    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    spec = spec_from_dict(config["spec"])
    store, run = Store(config["storage"]), config["run"]
    path = store.trial(run, spec.name)
    store.delete(f"{path}/{FAILURE}")
    try:
        record = run_trial(spec, store, run, Execution(**config["execution"]), _Progress())
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        store.write(f"{path}/{FAILURE}", to_json({"reason": reason, "traceback": traceback.format_exc()}))
        if isinstance(error, UserError):  # another attempt would make the same mistake
            tune.report({"status": "failed", "epochs_done": 0})
            return
        raise
    final = {"epochs_done": record["epochs_trained"], "status": record["status"], **record["result"]}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, MANIFEST).write_bytes(store.read(f"{path}/{MANIFEST}"))
        tune.report(final, checkpoint=tune.Checkpoint.from_directory(folder))


class _Progress:
    """Tells Ray of the epochs trained, at most once in `REPORT_SECONDS`."""

    def __init__(self) -> None:
        self.epochs, self.last = 0, time.monotonic()

    def __call__(self, row: dict[str, Any]) -> None:
        self.epochs += 1
        if time.monotonic() - self.last >= REPORT_SECONDS:
            self.last = time.monotonic()
            tune.report({"epochs_done": self.epochs, "sparsity_pct": row["sparsity_pct"], "level": row["level"]})
