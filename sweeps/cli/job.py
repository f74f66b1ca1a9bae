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
from lth_trainable.errors import UserError, bad_value
from lth_trainable.store.store import STATES, Store, is_no_space
from sweeps.cli.options import RunOptions
from sweeps.planning.plan import Facts
from sweeps.running.cluster import Cluster
from sweeps.running.launch import Outcome
from sweeps.running.resources import Resources
from sweeps.runs.ledger import Ledger, check_place

if TYPE_CHECKING:
    from lth_trainable.tickets.imported import Imported

OK, FAILED, BAD_INPUT, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130


def exit_code_of(command: Callable[[], int]) -> int:
    """What the command returns; a mistake of the user's is one line, and so are a full disk and an interrupt."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
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
class Job:
    """What the parts of a command share. imported: tickets that its trials start from."""

    console: Console
    options: RunOptions
    resources: Resources
    ledger: Ledger
    cluster: Cluster | None = None
    imported: tuple[Imported, ...] = ()

    def connected(self) -> contextlib.AbstractContextManager[Cluster]:
        """The cluster that the options name, with room for these trials and the storage that all its nodes share."""
        cluster = Cluster.connect(self.options.address or "auto", self.resources, self.say)
        cluster.check_room()
        return cluster.sharing(self.ledger.store, self.ledger.run)

    def say(self, text: str, style: str = "") -> None:
        """One paragraph, wrapped by the terminal alone: a log keeps whole lines, and names keep their brackets."""
        self.console.print(text, style=style, soft_wrap=True, markup=False)

    def stored(self, missing: int, repair: bool) -> tuple[Mapping[str, Any], set[str], list[str]]:
        """Fingerprint of trials where they run, keys of states they can go on from, and reports on damaged ones."""
        if not missing or not self.ledger.store.exists(STATES):
            return {}, set(), []
        if self.cluster is not None:
            mark = self.cluster.mark()
            return mark, *self.ledger.stored(mark, repair)
        if self.options.cluster or self.options.address:
            self.say("note: what is stored is shown for this machine's fingerprint, not for the cluster's", "yellow")
        from lth_trainable.training.execution import (  # torch takes a second: only where states are read
            Execution,
            fingerprint,
        )

        mark = fingerprint(Execution(**self.resources.execution()))
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
