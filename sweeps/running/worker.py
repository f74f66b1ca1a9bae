"""What runs in a Ray worker: a trial that ends early when the driver asks for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from lth_trainable.signals import SIGNALS
from lth_trainable.stopwatch import part, running
from lth_trainable.tune.config import task_of
from sweeps.running import warm_up
from sweeps.running.packing import VISIBLE
from sweeps.running.ray_adapter import before_first_trial, drop_flag, is_flag_set, set_flag

LOOK_SECONDS = 1.0  # between two looks; one is a request to Ray's control store


class StopSign:
    """Whether the driver has asked the trials of its launch to stop. Once it has, the answer stays."""

    def __init__(self, launch: str) -> None:
        self.launch, self.is_up, self.looked = launch, False, -LOOK_SECONDS

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self.is_up and now - self.looked >= LOOK_SECONDS:
            self.is_up, self.looked = is_flag_set(self.launch), now
        return self.is_up


def unblock_for_children() -> None:
    """Handle the signals that Ray was started with blocked, by doing nothing, instead of blocking them.

    What a trial starts, such as the processes of a data loader, would inherit the block, and then no SIGTERM of the
    trial's own could end it. In the main thread, before the thread of the trial is made.
    """
    blocked = SIGNALS & signal.pthread_sigmask(signal.SIG_BLOCK, ()) - {signal.SIGINT}  # Ray's own block
    for signum in blocked:
        signal.signal(signum, _do_nothing)  # a new program gets the default instead
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    if blocked:
        os.register_at_fork(after_in_child=_take_defaults)


def _do_nothing(*_: Any) -> None:
    """The handler of a signal that is for the command; it ends its trials."""


def _take_defaults() -> None:
    for signum in SIGNALS:
        if signal.getsignal(signum) is _do_nothing:
            signal.signal(signum, signal.SIG_DFL)


@before_first_trial(unblock_for_children)
def train(config: dict[str, Any]) -> None:
    """`trainable.train` of a trial that ends when the driver asks for it; at once, if it has not begun."""
    warm_up.give_way()
    task = task_of(config)
    should_stop = StopSign(task["launch"])
    if should_stop():
        from ray import tune

        tune.report({"status": "stopped", "epochs_done": 0})
        return
    if task.get("recorded") or _has_begun(task):
        from lth_trainable.tune.recorded import tell_recorded

        tell_recorded(task)
        return
    if task.get("place"):  # read when this process first uses CUDA; all its trials have the same GPU
        os.environ[VISIBLE] = task["place"]["visible"]
    with running(bool(task["execution"].get("profile"))):
        with part("import"):
            from lth_trainable.trainable import train as train_trial
        train_trial(config, should_stop)
    if "cohort" in task:
        drop_flag(task["cohort"])


def _has_begun(task: Mapping[str, Any]) -> bool:
    """Whether a worker has begun with the cohort of this task, and has died: Ray starts it anew as it was.

    Then the driver hands its trials out again, because one of them may have been the reason.
    """
    if "cohort" not in task or is_flag_set(task["cohort"]):
        return "cohort" in task
    set_flag(task["cohort"])
    return False
