"""What a worker does about signals that Ray was started with blocked. Without Ray: Tune calls it in its main thread."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from sweeps.running import worker
from tests.support.command import ROOT

CODE = """
import os, signal, subprocess, sys, threading, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})  # as Ray is started
from sweeps.running.worker import unblock_for_children
unblock_for_children()

def trial():
    for number in (signal.SIGTERM, signal.SIGUSR1):
        os.kill(os.getpid(), number)  # the worker is deaf
        time.sleep(0.1)
        program = subprocess.Popen(["sleep", "60"])
        program.send_signal(number)
        assert program.wait(20) == -number
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, b"!")
            time.sleep(60)
        os.read(read, 1)
        os.kill(child, number)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number
    print("all ended")

thread = threading.Thread(target=trial)
thread.start()
thread.join()
"""


def test_what_a_trial_starts_can_be_ended_by_a_signal_that_the_worker_does_not_hear() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CODE)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "all ended\n"), done.stderr


def test_a_cohort_whose_worker_has_died_is_not_trained_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray starts it again with the same config, on another worker, which finds that one has begun."""
    flags, done = set[str](), list[str]()
    monkeypatch.setattr(worker, "is_flag_set", flags.__contains__)
    monkeypatch.setattr(worker, "set_flag", flags.add)
    monkeypatch.setattr(worker, "drop_flag", flags.discard)
    monkeypatch.setattr("lth_trainable.tune.recorded.tell_recorded", lambda task: done.append("told"))
    task = {"launch": "a", "cohort": "a/1", "execution": {}}

    def train(config: Any, should_stop: Any) -> None:
        done.append("trained")
        if dies:
            raise SystemExit

    monkeypatch.setattr("lth_trainable.trainable.train", train)
    dies = True
    with pytest.raises(SystemExit):
        worker.train({"task": json.dumps(task)})
    worker.train({"task": json.dumps(task)})
    assert done == ["trained", "told"]
    dies = False
    for _ in range(2):  # one that has ended leaves no flag
        worker.train({"task": json.dumps({**task, "cohort": "a/2"})})
    worker.train({"task": json.dumps({**task, "recorded": True})})
    assert done[2:] == ["trained", "trained", "told"] and flags == {"a/1"}
