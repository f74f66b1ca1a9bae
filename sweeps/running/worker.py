"""What runs in a Ray worker: a trial that ends early when the driver asks for it."""

from __future__ import annotations

import time
from typing import Any

from sweeps.running.ray_adapter import is_flag_set

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


def train(config: dict[str, Any]) -> None:
    """`trainable.train` of a trial that ends when the driver asks for it; at once, if it has not begun."""
    should_stop = StopSign(config["launch"])
    if should_stop():
        from ray import tune

        tune.report({"status": "stopped", "epochs_done": 0})
        return
    from lth_trainable.trainable import train as train_trial

    train_trial(config, should_stop)
