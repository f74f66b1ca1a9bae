"""Loggers by name, for `--log`: TensorBoard, MLflow, Weights & Biases; what each needs, how to look at its logs.

`log_feed.py` calls them. Ray is only imported when a logger is made.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from lth_trainable.errors import UserError, refuse_secrets
from lth_trainable.registry import lookup
from lth_trainable.safe_text import one_line
from lth_trainable.store.local_files import FOLDER, check_own
from lth_trainable.store.store import Store
from sweeps.running.conclusion import Conclusion
from sweeps.running.verdict_loggers import VERDICTS, to_mlflow, to_wandb, wandb_mode

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
REMEDIES = {
    "mlflow": "set MLFLOW_TRACKING_URI to a tracking server that answers, or unset it for a file in the storage",
    "wandb": "set WANDB_MODE=offline to log into the run's folder without an account",
}
PASSED_ON = (  # environment variables that a submitted job gets, too; secrets belong on the head
    "MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL",
)  # fmt: skip
MLFLOW_DATABASE = "mlflow.db"
MLFLOW_QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
MLFLOW_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"  # by default 7, which take four minutes
MLFLOW_BATCH = 1000  # most numbers in one request


class LogFolder:
    """Where loggers write files. folder: the run's own, or a local one whose files `ship` copies to the run."""

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.run = store, run
        self._scratch = None if _is_here(store) else tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.folder = Path(store.root, run) if self._scratch is None else Path(self._scratch.name)

    def at(self, below: str) -> str:
        """The path of `below` in the run's folder, as the user would type it."""
        return self.store.at(f"{self.run}/{below}")

    def ship(self, below: str) -> None:
        """Copy the files of `folder/below` to the run, unless `folder` is the run's own."""
        files = [] if self._scratch is None else (self.folder / below).rglob("*")
        for file in (file for file in files if file.is_file()):
            self.store.write(f"{self.run}/{file.relative_to(self.folder).as_posix()}", file.read_bytes())

    def remove(self, below: str) -> None:
        """Remove `folder/below` and its copy in the run."""
        self.store.delete_folder(f"{self.run}/{below}")
        if self._scratch is not None:
            shutil.rmtree(self.folder / below, ignore_errors=True)


Place = LogFolder  # its name up to 0.4, which a custom logger may import


@dataclass(frozen=True, kw_only=True)
class Logger:
    """A Ray Tune callback. watch: how to look at its logs, in one line.

    If the callback has a method `log_verdicts(conclusion)`, it is called after the last trial, once the run is judged;
    it is a generator that yields between its steps.
    """

    callback: Any
    watch: str


def check_loggers(names: Iterable[str], here: bool = True) -> None:
    """Raise `UserError` for an unknown logger, or (here) one whose package is not installed."""
    for name in names:
        lookup("log", name, LOGGERS)
        if here and name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
            raise UserError(f"log: {name} found no package {PACKAGES[name]}; pip install 'lottery-sweep[{name}]'")


def check_environment() -> None:
    """Raise `UserError` if a variable that is shown, or passed on to a job, holds credentials."""
    for name in PASSED_ON:
        places = (
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" if name.startswith("MLFLOW") else "WANDB_API_KEY"
        )
        refuse_secrets(name, os.environ.get(name, ""), places)


def make_logger(name: str, log_folder: LogFolder) -> Logger:
    """Set up the logger `name`. Raises `UserError` if that fails."""
    store = log_folder.store
    if _is_here(store):  # the packages of the loggers follow links
        check_own(store.root, f"{log_folder.run}/{name}", FOLDER)
        check_own(store.root, MLFLOW_DATABASE, "file")
    try:
        logger: Logger = lookup("log", name, LOGGERS)(log_folder)
        logger.callback.setup()
    except UserError:
        raise
    except Exception as error:  # of any of these packages, a database or the network
        what_to_do = REMEDIES.get(name, "see its own documentation")
        raise UserError(f"log: {name} cannot be set up ({brief(error)}); {what_to_do}") from error
    return logger


def brief(error: BaseException) -> str:
    """The type of an exception and the first line of its message."""
    return one_line(": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]]))


# -- the loggers -----------------------------------------------------------------------------------------------------


def tensorboard(log_folder: LogFolder) -> Logger:
    """TensorBoard event files in the run's folder, one folder per trial."""
    from ray.tune.logger import TBXLoggerCallback

    class TensorBoard(TBXLoggerCallback):
        def log_trial_start(self, trial: Any) -> None:
            """Start without files: each curve is sent from its first epoch, even if an earlier command began it."""
            log_folder.remove(f"tensorboard/{trial}")
            super().log_trial_start(trial)

    return Logger(callback=TensorBoard(), watch=f"tensorboard --logdir {log_folder.at('tensorboard')}")


def mlflow(log_folder: LogFolder) -> Logger:
    """One MLflow run per trial, in an experiment named like the run."""
    os.environ.update({name: os.environ.get(name, value) for name, value in MLFLOW_QUIET.items()})
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from ray.tune.logger import LoggerCallback

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    check_environment()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _mlflow_database(log_folder.store)

    class MLflow(LoggerCallback):
        """One request for all rows of a report: one for each number, as Ray sends them, takes forty times as long."""

        def setup(self, *args: Any, **info: Any) -> None:
            self._client = MlflowClient(uri)
            self._pending: dict[str, list[Metric]] = defaultdict(list)
            self._runs: dict[Any, str] = {}
            with _few_retries():
                self._experiment = _mlflow_experiment(self._client, log_folder)

        def log_trial_start(self, trial: Any) -> None:
            run = self._client.create_run(self._experiment, run_name=str(trial), tags={"trial_name": str(trial)})
            self._runs[trial] = run.info.run_id
            params = [Param(name, str(value)) for name, value in trial.config.items()]
            self._client.log_batch(run.info.run_id, params=params)

        def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
            now, (numbers, epoch) = int(time.time() * 1000), _split(result)
            self._pending[self._runs[trial]] += [Metric(*number, now, epoch) for number in numbers.items()]

        def on_step_end(self, *args: Any, **info: Any) -> None:
            while self._pending:
                run, numbers = self._pending.popitem()
                for first in range(0, len(numbers), MLFLOW_BATCH):
                    self._client.log_batch(run, metrics=numbers[first : first + MLFLOW_BATCH])

        def log_trial_end(self, trial: Any, failed: bool = False) -> None:
            self._client.set_terminated(self._runs[trial], "FAILED" if failed else "FINISHED")

        def log_verdicts(self, conclusion: Conclusion) -> Iterator[None]:
            return to_mlflow(self._client, self._experiment, conclusion)

    return Logger(
        callback=MLflow(),
        watch=f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite:") else f"MLflow at {uri}",
    )


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
    """Let MLflow retry only once, unless the user has set a number: the user waits for this answer."""
    if MLFLOW_RETRIES in os.environ:
        yield
        return
    os.environ[MLFLOW_RETRIES] = "1"
    try:
        yield
    finally:
        del os.environ[MLFLOW_RETRIES]


def _mlflow_experiment(client: Any, log_folder: LogFolder) -> str:
    """The id of the experiment that MLFLOW_EXPERIMENT_ID names, if it exists; else of the one with the run's name.

    In a database of the storage a new one has its artifacts in the run's folder, not in the working folder.
    """
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException, KeyError):
        return str(client.get_experiment(os.environ["MLFLOW_EXPERIMENT_ID"]).experiment_id)
    found = client.get_experiment_by_name(log_folder.run)
    if found is not None:
        return str(found.experiment_id)
    ours = not os.environ.get("MLFLOW_TRACKING_URI")
    place = (log_folder.folder / "mlflow").as_uri() if ours else None
    return str(client.create_experiment(log_folder.run, artifact_location=place))


def wandb(log_folder: LogFolder) -> Logger:
    """One Weights & Biases run per trial, in the project WANDB_PROJECT or one named like the run."""
    import wandb as service
    from ray.air.integrations.wandb import WandbLoggerCallback

    class Wandb(WandbLoggerCallback):
        """Ray's callback without its two processes per trial, which cost seconds and do not report their failures."""

        def setup(self, *args: Any, **info: Any) -> None:
            with contextlib.redirect_stderr(io.StringIO()):  # Ray asks for the account in a deprecated way
                super().setup(*args, **info)
            self._runs: dict[Any, service.Run] = {}

        def log_trial_start(self, trial: Any) -> None:
            trial.init_local_path()
            self._runs[trial] = service.init(
                project=self.project, group=self.group or trial.experiment_dir_name, id=trial.trial_id,
                name=str(trial), config=dict(trial.config), dir=trial.local_path, reinit="create_new",
                resume=False, allow_val_change=True, mode=wandb_mode(),
                settings=service.Settings(console="off", silent=True),
            )  # fmt: skip

        def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
            self._runs[trial].log(*_split(result))

        def log_trial_end(self, trial: Any, failed: bool = False) -> None:
            self._runs.pop(trial).finish(exit_code=int(failed))

        def log_verdicts(self, conclusion: Conclusion) -> Iterator[None]:
            log_folder.remove(f"wandb/{VERDICTS}")  # of an earlier command that logged offline
            return to_wandb(service, self.project, log_folder.folder / "wandb" / VERDICTS, conclusion)

        def on_experiment_end(self, trials: Any, **info: Any) -> None:
            service.teardown()  # sends what is pending, and waits for it

    check_environment()
    project = os.environ.get("WANDB_PROJECT", log_folder.run)
    offline = f"wandb sync {log_folder.at('wandb')}/*/wandb/offline-run-*"
    if not _is_here(log_folder.store):
        offline = f"wandb sync, of a copy of {log_folder.at('wandb')}"
    return Logger(
        callback=Wandb(project=project),
        watch=offline if os.environ.get("WANDB_MODE") == "offline" else f"wandb: project {project}",
    )


LOGGERS: dict[str, Callable[[LogFolder], Logger]] = {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}


def _split(result: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The numbers of a result by name, and its epoch."""
    numbers = dict(result)
    return numbers, numbers.pop("training_iteration")


def _mlflow_database(store: Store) -> str:
    if not _is_here(store):
        raise UserError(
            f"log: mlflow found no MLFLOW_TRACKING_URI; expected that of a tracking server, since {store.as_typed} is "
            "not a local folder that could hold a database"
        )
    return f"sqlite:///{store.root}/{MLFLOW_DATABASE}"


def _is_here(store: Store) -> bool:
    return isinstance(store.fs, fs.LocalFileSystem)
