"""Commands in this process: trials train here, one after the other, and nothing waits or starts another process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any
from unittest.mock import patch

from lth_trainable.errors import UserError
from lth_trainable.training.run import Keep, run_trial
from sweeps.planning.dispatch import Dispatcher
from sweeps.running.launch import Outcome
from sweeps.running.searcher import Source
from sweeps.runs.ledger import Ledger


def launch_here(
    ledger: Ledger, dispatcher: Dispatcher, *_: Any, source: Source | None = None, **__: Any
) -> Outcome:  # fmt: skip
    """Train what the dispatcher and the source hand out, as `launch` does with Ray."""
    epochs, failures = 0, {}
    while True:
        trial = dispatcher.next()
        if trial is None and source is not None and source.add_to(dispatcher):
            continue
        trial = trial or dispatcher.any()
        if trial is None:
            return Outcome(epochs=epochs, failures=failures, interrupted=False)
        keep = Keep(states=dispatcher.plan.keep(trial), resumable=dispatcher.plan.policy != "none")
        try:
            record = run_trial(trial.spec, ledger.store, ledger.run, keep=keep)
            epochs += record["epochs_trained"]
        except UserError as error:
            failures[trial.name] = str(error)
        dispatcher.finished(trial.name, recorded=trial.name not in failures)


class HerePool:
    """In the place of a pool of processes."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> HerePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        return map(function, items)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(function(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done


@contextlib.contextmanager
def _no_cluster(file: Any) -> Iterator[str]:
    raise UserError(f"cluster: {file} is not started in a test")
    yield ""


@contextlib.contextmanager
def in_process(page: Callable[..., str] | None = None) -> Iterator[None]:
    """Within this block commands run here. page: in the place of the report, whose figures take a second."""
    replaced: Mapping[str, Any] = {
        "sweeps.cli.job.launch": launch_here, "sweeps.verify.ProcessPoolExecutor": HerePool,
        "sweeps.running.estimate._probe": lambda *_: (None, "not measured"),
        "sweeps.running.submit.brought_up": _no_cluster,
        "analysis.tables.parquet.PAUSE_SECONDS": 0.0, "sweeps.runs.lock.SETTLING_SECONDS": 0.0,
        **({} if page is None else {"analysis.report.html.report_html": page}),
    }  # fmt: skip
    with contextlib.ExitStack() as patches:
        for name, value in replaced.items():
            patches.enter_context(patch(name, value))
        yield
