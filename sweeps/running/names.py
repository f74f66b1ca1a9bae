"""What Ray calls the trials of a sweep: by the names of their specs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lth_trainable.tune.config import task_of

AGAIN = "~"  # in the name of a folder


def trial_name(trial: Any) -> str:
    """The name of the spec behind one of Tune's trials."""
    return str(task_of(trial.config)["trial"])


def trial_folder(trial: Any) -> str:
    """The name of its folder: another one if the spec had a Ray trial before.

    That found no memory beside others, or trained it in a cohort.
    """
    task = task_of(trial.config)
    attempt = task.get("attempt") or (task.get("place") or {}).get("attempt", 0)
    return f"{trial_name(trial)}{AGAIN}{attempt}" if attempt else trial_name(trial)


def name_of(result: Any) -> str:
    """The name of the spec behind one of Tune's results: also of a trial that has never reported its config."""
    return Path(result.path).name.partition(AGAIN)[0]
