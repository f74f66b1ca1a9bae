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


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name, value in (
        (replays, "Graph", StandIn), (replays.Waits, "watched", lambda _: contextlib.nullcontext()),
        (torch.cuda, "graph_pool_handle", object), (StandIn, "captures", 0),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, value)


def test_what_waits_the_first_time_because_it_is_compiled_is_captured_later(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = list[str]()

    @contextlib.contextmanager
    def watched(waits: Any) -> Iterator[None]:
        before = len(compiled)
        yield
        waits.found = len(compiled) > before

    def work() -> None:
        if not compiled:
            compiled.append("step")

    monkeypatch.setattr(replays.Waits, "watched", watched)
    for waits_at_first, refusal, captures in ((True, None, 1), (False, "it waits for the device", 0)):
        stack = Replays(torch.device("cuda"), waits_at_first=waits_at_first)
        StandIn.captures = 0
        compiled.clear()
        for _ in range(4):
            stack.run("step", work)
        assert (stack.refusal, StandIn.captures) == (refusal, captures)


def test_a_graph_that_is_in_use_is_kept_while_others_come_and_go() -> None:
    """Such as that of a validation, while members have ever new combinations of learning rates."""
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
