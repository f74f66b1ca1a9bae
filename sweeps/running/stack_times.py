"""Have the times of a stack measured by a process of its own: `lth_trainable/training/stack_times.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stacking.times import Time

SECONDS = 10.0  # after which no other number of networks is begun
START_SECONDS = 50.0  # for the process to start, read the data, and end


class NotMeasured(Exception):
    """Nothing was measured; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a process has found. place: the fingerprint of trials there, and the version of the driver.

    times: none if the place was known. ended: see `Curve`. is_whole: whether the process has ended as it should.
    """

    place: Mapping[str, Any]
    times: tuple[Time, ...]
    ended: str
    is_whole: bool


def request_of(
    spec: TrialSpec, execution: Mapping[str, Any], data_root: Path | None, numbers: Sequence[int],
    known: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:  # fmt: skip
    """What the process is asked for: times of so many networks like this trial's, on the device of its trials.

    known: places for which they are known.
    """
    root = None if data_root is None else str(data_root.resolve())
    return {
        "spec": spec.canonical(), "execution": dict(execution), "data_root": root, "numbers": list(numbers),
        "seconds": SECONDS, "known": [dict(place) for place in known],
    }  # fmt: skip


def lines_of(request: Mapping[str, Any], seconds: float | None = None) -> list[str]:
    """What the process answers here, line by line, and its exit code, or "late", in the last one.

    seconds: until it is ended; None: as long as it may need.
    """
    limit = SECONDS + START_SECONDS if seconds is None else min(seconds, SECONDS + START_SECONDS)
    with tempfile.TemporaryFile("w+") as output:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "lth_trainable.training.stack_times"], input=json.dumps(request), text=True,
                stdout=output, stderr=subprocess.DEVNULL, check=False, timeout=limit,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )  # fmt: skip
            code = str(done.returncode)
        except subprocess.TimeoutExpired:
            code = "late"
        output.seek(0)
        return [*output.read().splitlines(), code]


def read_lines(lines: Sequence[str]) -> Found:
    """What the lines of `lines_of` say. Raises `NotMeasured` with the reason if the process has found nothing."""
    *said, code = lines
    place: dict[str, Any] = {}
    times: list[Time] = []
    for line in said:
        try:
            content = json.loads(line)
        except ValueError:  # written by a library, or cut off
            continue
        if not isinstance(content, dict):
            continue
        if "place" in content:
            place = content["place"]
        elif "k" in content:
            times.append(Time(**content))
        elif "ended" in content:
            return Found(place=place, times=tuple(times), ended=content["ended"], is_whole=True)
        elif "refused" in content:
            raise NotMeasured(f"such networks are not trained as one: {content['refused']}")
        elif "error" in content:
            raise NotMeasured(f"they could not be measured ({content['error']})")
    why = "took too long" if code == "late" else f"ended with code {code}"
    if not times:
        raise NotMeasured(f"they could not be measured: the process that measures {why}")
    return Found(place=place, times=tuple(times), ended=f"the process that measures {why}", is_whole=False)
