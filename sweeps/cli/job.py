"""What the commands that train have in common: exit codes, the job at hand, how it opens its run and how it ends."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import FAILED, INTERRUPTED, OK, STOPPED, UserError, bad_value, command_line
from lth_trainable.store.store import STATES, Store, is_no_space
from sweeps.cli.options import RunOptions
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import Facts
from sweeps.running.cluster import Cluster
from sweeps.running.launch import Outcome, launch
from sweeps.running.log_feed import Loggers
from sweeps.running.loggers import check_loggers
from sweeps.running.progress import Board
from sweeps.running.resources import Budget, Resources, Spent
from sweeps.running.submit import Where, where_of
from sweeps.runs.ledger import Ledger, check_place

if TYPE_CHECKING:
    from sweeps.running.searcher import Source


def exit_code_of(command: Callable[[], int]) -> int:
    """As `command_line`; here a mistake of the user's is one line, and so are a full disk and an interrupt."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    try:
        return command_line(command)
    except OSError as error:
        if not is_no_space(error):
            raise
        print(
            f"error: storage: found no space left ({str(error).splitlines()[0]}); expected some for states, "
            "records and tables; make room, as with `python -m sweeps.storage gc`: what is stored stays, the same "
            "command goes on",
            file=sys.stderr,
        )
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; what is finished stays: the same command goes on", file=sys.stderr)
        return INTERRUPTED


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where the driver of a command runs, what each trial gets, and how long the command may go on."""

    where: Where
    resources: Resources
    budget: Budget

    @classmethod
    def of(cls, options: RunOptions, trains: bool = True) -> Setting:
        """What the options ask for; a command that does not train runs here. Raises `UserError` for what cannot be."""
        where = where_of(options.target) if trains else Where.LOCAL
        options.resources.check(here=options.target.is_this_machine)
        budget = Budget(hours=options.max_hours, epochs=options.max_epochs)
        budget.check()
        check_loggers(options.log, here=where is not Where.SUBMIT)
        return cls(where=where, resources=options.resources, budget=budget)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the parts of a command share. command: as it was typed. cluster: that its trials run on, once connected."""

    console: Console
    options: RunOptions
    setting: Setting
    ledger: Ledger
    command: tuple[str, ...]
    cluster: Cluster | None = None

    @property
    def slots(self) -> int:
        """Trials that run at once."""
        return (self.cluster or self.setting.resources).slots()

    def connected(self) -> contextlib.AbstractContextManager[Cluster]:
        """The cluster that the options name, with room for these trials and the storage that all its nodes share."""
        cluster = Cluster.connect(self.options.address or "auto", self.setting.resources, self.say)
        cluster.check_room()
        return cluster.sharing(self.ledger.store, self.ledger.run)

    def launch(
        self, dispatcher: Dispatcher, spent: Spent, board: Board, loggers: Loggers, source: Source | None = None
    ) -> Outcome:
        """Train what the dispatcher and the source hand out; Ray does not start where there is nothing."""
        for line in loggers.watch:
            self.say(f"watch: {line}")
        if dispatcher.over if source is None else source.is_over(dispatcher):
            return Outcome(epochs=0, failures={}, interrupted=False)
        data_root = self.options.data_root
        return launch(
            self.ledger, dispatcher, self.setting.resources,
            {"data_root": data_root.resolve() if data_root else None}, spent, self.setting.budget,
            board=board, cluster=self.cluster, source=source, loggers=loggers,
        )  # fmt: skip

    def say(self, text: str, style: str = "") -> None:
        """One paragraph, wrapped by the terminal alone: a log keeps whole lines, and names keep their brackets."""
        self.console.print(text, style=style, soft_wrap=True, markup=False)

    def stored(self, missing: int, repair: bool) -> tuple[Mapping[str, Any], set[str], list[str]]:
        """Fingerprint of trials where they run, keys of states they can go on from, and reports on damaged ones."""
        if not missing or not self.ledger.store.exists(STATES):
            return {}, set(), []
        if self.cluster is not None:
            mark = self.cluster.fingerprint()
            return mark, *self.ledger.stored(mark, repair)
        if self.options.cluster or self.options.address:
            self.say("note: what is stored is shown for this machine's fingerprint, not for the cluster's", "yellow")
        from lth_trainable.training.execution import (  # torch takes a second: only where states are read
            Execution,
            fingerprint,
        )

        mark = fingerprint(Execution(**self.setting.resources.execution()))
        return mark, *self.ledger.stored(mark, repair)


def open_run(options: RunOptions, default: str) -> tuple[Store, str]:
    """The store and the run's name. Raises `UserError` for a storage that cannot be read."""
    name = options.name or default
    try:
        store = check_place(options.storage, name)
        store.exists(name)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise bad_value("storage", options.storage, "a folder, or s3:// or gs:// with access to it", reason) from error
    return store, name


def facts_of(dataset: str, split_seed: int, data_root: Path | None) -> Facts:
    """What a plan must know of a data set, which is read for it."""
    data = load_dataset(dataset, data_root, split_seed)
    return Facts(digest=data.digest, n_train=len(data.train))


def finish(job: Job, summary: dict[str, Any], outcome: Outcome) -> int:
    for name, reason in sorted(outcome.failures.items()):
        job.say(f"failed: {name}: {reason}", "red")
    if outcome.failures:
        job.say("the same command with --retry-failed tries them again", "yellow")
    if outcome.stopped_by:
        job.say(f"stopped by {outcome.stopped_by}; what is trained stays: the same command goes on", "yellow")
    if outcome.interrupted:
        job.say("interrupted; what is finished stays: the same command goes on", "yellow")
    if job.options.json:
        print(json.dumps(summary), flush=True)
    if outcome.interrupted:
        return INTERRUPTED
    if summary["done"] == summary["planned"]:
        return OK
    return STOPPED if outcome.stopped_by and not outcome.failures else FAILED
