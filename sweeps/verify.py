"""Verify results by repetition: retrain trials of a run alone, each in a new process, and compare every byte.

    python -m sweeps.verify RUN [--trials 3]

A trial that was trained in a cohort (`--replicas`) is trained again in a cohort of strangers: the same trial with other
seeds. They are members only so that there are others, and are not kept.

Exit code: 0 if all are identical, 1 if one differs or cannot be compared, 2 for bad input.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds: a signal may come at any moment
    from lth_trainable import signals

    signals.install()

import contextlib
import functools
import json
import math
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.table import Table
from rich.text import Text

from analysis.text import console, plural, print_line, table_of
from lth_trainable import signals
from lth_trainable.errors import FAILED, OK, UserError, bad_value, command_line
from lth_trainable.options import parsed
from lth_trainable.quiet import ignore_torch_warnings
from lth_trainable.safe_text import one_line
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.stacking.shape import stack_shape
from lth_trainable.store.store import Damaged, Store
from lth_trainable.store.trials import finished_trials, open_run

if TYPE_CHECKING:
    from lth_trainable.training.execution import Execution

PARTS = ("weights", "masks", "metrics")
STRANGERS = 3  # beside a trial of a cohort, if it has room for as many
EVERY = 5.0  # seconds between two lines about one trial, where standard error is not a terminal


@dataclass(frozen=True, kw_only=True)
class Options:
    """Retrain trials of a run alone, each in a new process, and compare SHA-256 of weights, masks and metrics."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="path of the run", metavar="RUN")]
    trials: Annotated[int, tyro.conf.arg(help="number of trials, those that share most first", metavar="N")] = 3
    data_root: Annotated[Path | None, tyro.conf.arg(help="folder of data sets that read files", metavar="DIR")] = None
    json: Annotated[bool, tyro.conf.arg(help="end standard output with one line of JSON")] = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return command_line(
        lambda: verify(
            parsed(Options, prog="python -m sweeps.verify", args=argv, config=(tyro.conf.FlagCreatePairsOff,))
        )
    )


def verify(options: Options) -> int:
    """Retrain, compare and show; returns 0 only if every picked trial is identical in every part."""
    if options.trials < 1:
        raise bad_value("trials", options.trials, "at least 1")
    records = pick(options.run, options.trials)
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1, initializer=signals.ignore
    ) as pool:
        rows = [
            _repeated(pool, record, f"{number} of {len(records)}: {record['trial']}", options)
            for number, record in enumerate(records, 1)
        ]
    to = console()
    to.print(_table(rows))
    for row in rows:
        if row["why"]:
            print_line(to, f"not comparable: {row['trial']}: {row['why']}")
    identical = sum(row["identical"] for row in rows)
    print(f"{identical} of {len(rows)} trials are identical, bit for bit")
    if options.json:
        print(json.dumps({"run": options.run, "trials": rows, "identical": identical}))
    return OK if identical == len(rows) else FAILED


def _repeated(pool: ProcessPoolExecutor, record: dict[str, Any], what: str, options: Options) -> dict[str, Any]:
    """Retrain one trial in the pool and compare it; says on standard error what goes on."""
    line = ProgressLine(what)
    company = "beside strangers" if _is_of_cohort(record) else "alone"
    line.show(f"a new process trains {plural(len(record['epochs']), 'epoch')}, {company}")
    again = pool.submit(_retrain, record, options.run, options.data_root, line).result()
    row = compare(record, again)
    line.end("not comparable" if row["why"] else "identical" if row["identical"] else "differs")
    return row


class ProgressLine:
    """What a trial is doing, on standard error: in a terminal one line that changes, elsewhere a line now and then."""

    def __init__(self, what: str) -> None:
        self.what, self._shown_at = what, -math.inf

    def show(self, text: str) -> None:
        """Show where the trial is; elsewhere than in a terminal only if the last line is `EVERY` seconds old."""
        if sys.stderr.isatty():
            self._write(text, "\r\x1b[2K", "")
        elif time.monotonic() - self._shown_at >= EVERY:
            self._shown_at = time.monotonic()
            self._write(text, "", "\n")

    def end(self, text: str) -> None:
        """Show the result of the trial; the line stays."""
        self._write(text, "\r\x1b[2K" if sys.stderr.isatty() else "", "\n")

    def _write(self, text: str, before: str, after: str) -> None:
        line = one_line(f"{self.what}: {text}")
        if not after:  # a line that wraps could not be written over
            line = line[-(shutil.get_terminal_size().columns - 1) :]
        sys.stderr.write(f"{before}{line}{after}")
        sys.stderr.flush()


def pick(run_path: str, number: int) -> list[dict[str, Any]]:
    """Records of the trials to verify: those with the most epochs trained by others, then the longest.

    Trials of different settings come before further seeds of one. Raises `UserError` if there is no finished trial.
    """
    store, run = open_run(run_path)
    try:
        records = [record for _, record in finished_trials(store, run)]
    except Damaged as damage:
        raise UserError(f"{damage}; rerun the sweep's command to repair it") from damage
    if not records:
        raise UserError(f"{run_path}: found no finished trial; expected the path of a run, such as runs/digits")
    seen: dict[str, int] = {}
    order = []
    for record in sorted(records, key=lambda r: (-inherited(r), -len(r["epochs"]), r["trial"])):
        group = record["trial"].rpartition("-seed")[0]
        order.append((seen.setdefault(group, 0), record))
        seen[group] += 1
    return [record for _, record in sorted(order, key=lambda pair: pair[0])][:number]


def inherited(record: dict[str, Any]) -> int:
    """Number of epochs of a trial that other trials trained."""
    return sum(row["trained_by"] != record["trial"] for row in record["epochs"])


def compare(record: dict[str, Any], again: dict[str, Any]) -> dict[str, Any]:
    """Whether each part is equal; None if the fingerprints differ, since equal bytes cannot be expected then."""
    comparable = record["fingerprint"] == again["fingerprint"]
    parts = {part: (record["sha256"][part] == again["sha256"][part]) if comparable else None for part in PARTS}
    why = "" if comparable else f"trained on {_where(record)}, here {_where(again)}"
    epochs = {"epochs": len(record["epochs"]), "inherited": inherited(record)}
    return {"trial": record["trial"], **epochs, **parts, "identical": all(parts.values()), "why": why}


def _retrain(record: dict[str, Any], run: str, data_root: Path | None, line: ProgressLine) -> dict[str, Any]:
    """Train the trial again in this process, from scratch or from its imported ticket; its fingerprint and hashes."""

    ignore_torch_warnings()
    from lth_trainable.tickets.imported import find_imported
    from lth_trainable.training.execution import execution_like

    spec, execution = spec_from_dict(record["spec"]), execution_like(record["fingerprint"], data_root)
    with tempfile.TemporaryDirectory() as folder:
        if spec.ticket_id is not None and spec.starts_from_imported:
            find_imported(open_run(run)[0], spec.ticket_id.digest).seal(Store(folder))
        n_epochs = len(record["epochs"])
        again = _train(
            spec, Store(folder), execution, lambda rows: line.show(f"epoch {len(rows)} of {n_epochs}"),
            STRANGERS if _is_of_cohort(record) else 0,
        )  # fmt: skip
    return {"fingerprint": again["fingerprint"], "sha256": again["sha256"]}


def _is_of_cohort(record: dict[str, Any]) -> bool:
    """Whether the trial was trained in a stack, in which others may have been too."""
    return record["fingerprint"].get("replicas", 1) > 1 and stack_shape(spec_from_dict(record["spec"])) is not None


class _Enough(Exception):
    """Ends the strangers, once the trial is done."""


def _train(
    spec: TrialSpec, store: Store, execution: Execution, on_epoch: Callable[[list[Any]], None], strangers: int
) -> dict[str, Any]:
    """The record of the trial, trained alone or as the second member of a cohort with so many strangers."""
    from lth_trainable.training.cohort import run_cohort
    from lth_trainable.training.run import run_trial

    records: list[dict[str, Any]] = []

    def train() -> None:
        records.append(run_trial(spec, store, "verify", execution, on_epoch))

    def between() -> None:
        if records:
            raise _Enough

    seeds = [seed for seed in range(STRANGERS + 1) if seed != spec.seed][: min(strangers, execution.replicas - 1)]
    jobs: list[Callable[[], Any]] = [
        functools.partial(run_trial, replace(spec, seed=seed), store, "strangers", execution) for seed in seeds
    ]
    jobs.insert(1, train)
    if len(jobs) == 1:
        train()
        return records[0]
    with contextlib.suppress(_Enough):
        outcomes = run_cohort(jobs, execution, spec, between)
        if isinstance(outcomes[1], BaseException):
            raise outcomes[1]
    return records[0]


def _where(record: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in record["fingerprint"].items())


def _table(rows: list[dict[str, Any]]) -> Table:
    table = table_of("trial", "epochs", "by others", *PARTS, left=PARTS)
    words = {
        True: Text("identical", "green"),
        False: Text("differs", "bold red"),
        None: Text("not comparable", "yellow"),
    }
    for row in rows:
        table.add_row(row["trial"], str(row["epochs"]), str(row["inherited"]), *(words[row[part]] for part in PARTS))
    return table


if __name__ == "__main__":
    signals.run(main)
