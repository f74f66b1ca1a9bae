"""What the commands that train have in common: their setting, the job, how it opens its run and how it ends."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lth_trainable import signals
from lth_trainable.data.datasets import load_dataset
from lth_trainable.data.splits import Dataset
from lth_trainable.errors import FAILED, OK, STOPPED, StorageError, UserError, bad_value, command_line
from lth_trainable.quiet import ignore_torch_warnings
from lth_trainable.safe_text import printable
from lth_trainable.silence.limit import SLOW, announced
from lth_trainable.silence.watchdog import check_limit
from lth_trainable.spec.trial_spec import DataKey
from lth_trainable.store.store import STATES, Store
from lth_trainable.store.trouble import machine_error
from lth_trainable.training.compiler import check_compiler
from lth_trainable.training.without_torch import fingerprint_without_torch
from sweeps.cli.options import RunOptions
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import Facts
from sweeps.running.cluster import Cluster
from sweeps.running.conclusion import Conclusion
from sweeps.running.launch import Outcome, launch
from sweeps.running.log_feed import Loggers
from sweeps.running.loggers import check_loggers
from sweeps.running.progress import Board
from sweeps.running.resources import Budget, Resources, Spent
from sweeps.running.submit import Where, where_of
from sweeps.runs.health import Health
from sweeps.runs.ledger import Ledger, check_place

if TYPE_CHECKING:
    from analysis.tables.ahead import Ahead
    from analysis.tables.parquet import Frames
    from sweeps.running.searcher import Source


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command; returns its exit code. Like `command_line`, but a failing disk of this machine is one line too."""
    ignore_torch_warnings()

    def told() -> int:
        with machine_troubles():
            return command()

    return command_line(told)


@contextlib.contextmanager
def machine_troubles() -> Iterator[None]:
    """Within this block a failing disk of this machine is raised as a `StorageError`."""
    try:
        yield
    except OSError as error:
        trouble = machine_error(error)
        if trouble is None:
            raise
        raise trouble from error


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where the driver of a command runs, what each trial gets, and how long the command may run.

    here: whether trials run on this machine.
    """

    where: Where
    resources: Resources
    budget: Budget
    here: bool

    @classmethod
    def of(cls, options: RunOptions, trains: bool = True) -> Setting:
        """The setting that the options ask for; a command that does not train runs here. Raises `UserError`."""
        where = where_of(options.target) if trains else Where.LOCAL
        options.resources.check(here=options.is_here)
        budget = Budget(hours=options.max_hours, epochs=options.max_epochs)
        budget.check()
        check_limit("trial-silence", options.trial_silence)
        check_loggers(options.log, here=where is not Where.SUBMIT)
        return cls(where=where, resources=options.resources, budget=budget, here=options.is_here)

    def compiling(self, is_used: bool) -> Setting:
        """The setting with networks compiled, or not. Raises `UserError` if this machine would and cannot do so."""
        if is_used and self.here:
            check_compiler("cuda" if self.resources.gpus else "cpu")
        return replace(self, resources=replace(self.resources, compile=is_used))


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the parts of a command share.

    command: as the user typed it. cluster: where its trials run, once it is connected. health: of the storage, once
    the run is locked.
    """

    console: Console
    options: RunOptions
    setting: Setting
    ledger: Ledger
    command: tuple[str, ...]
    cluster: Cluster | None = None
    health: Health | None = None

    @property
    def slots(self) -> int:
        """Trials that run at once."""
        return (self.cluster or self.setting.resources).slots()

    def connected(self) -> contextlib.AbstractContextManager[Cluster]:
        """The cluster in the options, after checks that a trial fits on a node and that all nodes share the storage."""
        cluster = Cluster.connect(self.options.address or "auto", self.setting.resources, self.say)
        cluster.check_room()
        return cluster.sharing(self.ledger.store, self.ledger.run)

    def launch(
        self, dispatcher: Dispatcher, spent: Spent, board: Board, loggers: Loggers, ahead: Ahead,
        source: Source | None = None,
    ) -> Outcome:  # fmt: skip
        """Train the trials of the dispatcher and the source. Ray does not start if there are none.

        ahead: is told of every trial that is recorded.
        """
        for line in loggers.watch:
            self.say(f"watch: {line}")
        if dispatcher.over if source is None else source.is_over(dispatcher):
            return Outcome(epochs=0, failures={}, interrupted=False)
        if self.cluster is None and (unused := self.setting.resources.unused()) is not None:
            self.say(f"note: {unused}", "yellow")
        data_root = self.options.data_root
        return launch(
            self.ledger, dispatcher, self.setting.resources,
            {"data_root": data_root.resolve() if data_root else None}, spent, self.setting.budget,
            board=board, cluster=self.cluster, source=source, loggers=loggers,
            health=self.health, silence=self.options.trial_silence,
            covered_in_ray=self.options.max_covered_in_ray, mps=self.options.mps, say=self.say, recorded=ahead.add,
        )  # fmt: skip

    def conclude(self, loggers: Loggers, frames: Frames) -> None:
        """Send the verdicts and the chosen tickets to the loggers that take them."""
        ledger, wanted, data_root = self.ledger, self.options.log_tickets, self.options.data_root
        problem = loggers.conclude(lambda: Conclusion.of(ledger.store, ledger.run, frames, wanted, data_root))
        if problem is not None:
            self.say(f"note: {problem}", "yellow")

    def say(self, text: str, style: str = "") -> None:
        """Print one paragraph. Only the terminal wraps it, so a log has complete lines; brackets are literal."""
        self.console.print(printable(text), style=style, soft_wrap=True, markup=False)

    def stored(self, missing: int, repair: bool) -> tuple[Mapping[str, Any], set[str], list[str]]:
        """The fingerprint of trials where they run, keys of states they can continue from, and reports on damage.

        missing: number of trials to train. repair: set damaged states aside. Raises `OutOfTime` if no worker of a
        cluster is there in time.
        """
        if not missing or not self.ledger.store.exists(STATES):
            return {}, set(), []
        if self.cluster is not None:
            of_workers = self.cluster.fingerprint(self.setting.budget)
            return of_workers, *self.ledger.stored(of_workers, repair)
        if self.options.cluster or self.options.address:
            self.say("note: stored states are counted for this machine's fingerprint, not for the cluster's", "yellow")
        if not repair and not self.ledger.listed_states():
            return {}, set(), []
        here = self._fingerprint_here(sure=repair)
        return here, *self.ledger.stored(here, repair)

    def _fingerprint_here(self, sure: bool) -> Mapping[str, Any]:
        """The fingerprint of trials on this machine. Not sure: without torch, if a stored state has the same."""
        resources = self.setting.resources
        execution = resources.execution()
        likely = (
            None
            if sure
            else fingerprint_without_torch(
                execution["device"], execution["threads"], replicas=resources.replicas, compiled=resources.compile
            )
        )
        if likely is not None and self.ledger.has_states_of(likely):
            return likely
        from lth_trainable.training.execution import Execution, fingerprint  # torch takes seconds to import

        return fingerprint(Execution(**execution))


def open_run(options: RunOptions, default: str) -> tuple[Store, str]:
    """The store and the run's name. Raises `UserError` if the storage cannot be read."""
    name = options.name or default
    try:
        store = check_place(options.storage, name)
        store.exists(name)
    except UserError:
        raise
    except (OSError, ValueError, StorageError) as error:
        reason = str(error).splitlines()[0]
        raise bad_value("storage", options.storage, "a folder, or s3:// or gs:// with access to it", reason) from error
    return store, name


def facts_of(data_key: DataKey, data_root: Path | None) -> Facts:
    """Read a data set for the facts that a plan needs about it."""
    dataset, *settings = data_key
    with announced(SLOW, f"dataset {dataset}"):
        data = load_dataset(dataset, data_root, *settings)
    return Facts(digest=data.digest, n_train=len(data.train), in_memory=isinstance(data, Dataset))


def finish(job: Job, summary: Mapping[str, Any], outcome: Outcome) -> int:
    """Print how a command ended; returns its exit code."""
    for name, reason in sorted(outcome.failures.items()):
        job.say(f"failed: {name}: {reason}", "red")
    if outcome.failures:
        job.say("run the same command with --retry-failed to try them again", "yellow")
    if outcome.stopped_by:
        job.say(f"stopped by {outcome.stopped_by}; {signals.TRAINED}", "yellow")
        signals.said()
    by = outcome.signal or "SIGINT"
    if outcome.interrupted:
        job.say(f"{signals.words(by)}; {signals.TRAINED}", "yellow")
        signals.said()
    if job.options.json:
        print(json.dumps(summary), flush=True)
    if outcome.interrupted:
        return signals.exit_code(by)
    if summary["done"] == summary["planned"]:
        return OK
    return STOPPED if outcome.stopped_by and not outcome.failures else FAILED
