"""Which graphs a stack keeps, with stand-ins for CUDA's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lth_trainable.stacking import replays
from lth_trainable.stacking.replays import KEPT, Replays


class StandIn:
    captures = 0

    def __init__(self, pool: Any) -> None:
        StandIn.captures += 1

    @contextlib.contextmanager
    def captured(self) -> Iterator[None]:
        yield

    def replay(self) -> None:
        pass


def test_a_graph_that_is_in_use_is_kept_while_others_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of a validation, while members have ever new combinations of learning rates."""
    for owner, name, value in (
        (replays, "Graph", StandIn), (replays.Waits, "watched", lambda _: contextlib.nullcontext()),
        (torch.cuda, "graph_pool_handle", object), (StandIn, "captures", 0),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, value)
    stack = Replays(torch.device("cuda"))
    assert [stack.run("validation", lambda: "sums") for _ in range(3)] == ["sums"] * 3 and StandIn.captures == 1
    stack.run("step", lambda: None)
    for variant in range(3 * KEPT):
        stack.run("step", lambda: None, variant)
        stack.run("validation", lambda: "sums")
    assert StandIn.captures == 1 + 3 * KEPT
    assert len(stack._graphs) == KEPT and ("validation", None) in stack._graphs
    stack.run("step", lambda: None, 0)
    assert StandIn.captures == 2 + 3 * KEPT, "the first one was not used for longest"
