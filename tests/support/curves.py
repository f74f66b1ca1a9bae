"""A trial's record, and the curves of TensorBoard that it must become."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from lth_trainable.spec.trial_spec import TrialSpec

SPEC = TrialSpec(epochs=2, target_sparsity_pct=64.0)
ROWS = [
    {
        "epoch": n % 2, "step": 5, "lr": 0.1, "train_loss": 1 / (n + 1), "valid_loss": 2.0, "valid_accuracy": n / 8,
        "seconds": 0.5, "level": n // 2, "sparsity_pct": 0.0, "trained_by": "another",
    }
    for n in range(6)
]  # fmt: skip
RESULT = {"n_kept": 7, "test_loss": 0.5, "test_accuracy": 0.75, "early_stop_epoch": None, "collapsed_layers": ["0"]}
RECORD = {"epochs": ROWS, "result": RESULT}


def events(folder: Path) -> list[Any]:
    """All events below a folder: each is its length, a checksum, itself and another checksum."""
    found = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            found.append(Event.FromString(content[at + 12 : at + 12 + length]))
            at += length + 16
    return found


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of each scalar, by name."""
    found = defaultdict(list)
    for event in events(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found[value.tag.removeprefix("ray/tune/")].append((event.step, value.simple_value))
    return dict(found)


def check_curves(found: Mapping[str, Sequence[tuple[int, float]]], record: Mapping[str, Any]) -> None:
    """Every number of every epoch at its own step, those of the result at the last, and nothing else."""
    expected: dict[str, list[tuple[int, Any]]] = defaultdict(list)
    for step, row in enumerate(record["epochs"], 1):
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                expected[name].append((step, pytest.approx(float(value))))
    result = {**record["result"], "collapsed_layers": len(record["result"]["collapsed_layers"])}
    for name, value in result.items():
        if isinstance(value, int | float):
            expected[f"final/{name}"].append((step, pytest.approx(float(value))))
    assert found == expected and {"train_loss", "sparsity_pct", "final/n_kept"} <= set(found)
