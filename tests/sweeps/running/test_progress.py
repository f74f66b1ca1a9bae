"""The live view, as a terminal of a given width shows it."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from analysis.text import duration
from sweeps.running.progress import Board, line, speed, view


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_view_of_a_sweep_has_one_line_of_epochs_whatever_the_width(width: int) -> None:
    now = 0.0
    board = Board(planned=20, epochs_planned=21_230, cluster="3 nodes, 2/4 GPUs", clock=lambda: now)
    starting = shown(board, width)
    assert starting[1].endswith("0 of 21,230 epochs  ·  warming up the workers")
    board.spent.report("digits-lenet_300_100-imp-s87.04-r0-seed0", 1)
    board.refresh()
    now = 1_000.0
    board.spent.report("digits-lenet_300_100-imp-s87.04-r0-seed0", 10_000)
    running = shown(board, width)
    assert re.fullmatch(r"━+\D* 10,000 of 21,230 epochs  ·  \d+ epochs/s  ·  \d+:\d\d left", running[1])
    assert len(starting) == len(running) == 2


def shown(board: Board, width: int) -> list[str]:
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(view(board))
    return [line.rstrip() for line in capture.get().splitlines() if line.strip()]


def test_the_plain_line_says_how_far_it_is() -> None:
    now = 0.0
    board = Board(planned=10, skipped=3, epochs_planned=700, clock=lambda: now)
    board.spent.report("a", 20)
    assert "3/10 trials, 1 running, 20/700 epochs, measuring the pace" in line(board)
    now = 10.0
    board.spent.finish("b", 100)
    board.spent.fail("c")
    assert "4/10 trials, 1 running, 1 failed, 120/700 epochs, 10 epochs/s, 0:58 left" in line(board)


def test_how_long_a_search_will_take_is_not_known_beforehand() -> None:
    now = 0.0
    board = Board(planned=10, suggestions=(1, 4), clock=lambda: now)
    board.spent.report("a", 20)
    board.refresh()
    now = 10.0
    board.spent.report("a", 120)
    assert line(board).endswith("1/4 suggestions, 0/10 trials, 1 running, 120 epochs, 10 epochs/s")


def test_durations_are_told_as_clocks_do() -> None:
    assert [duration(s) for s in (7, 750, 11100)] == ["0:07", "12:30", "3:05:00"]


@pytest.mark.parametrize(
    ("pace", "shown"), [(10.2, "10 epochs/s"), (0.6, "36 epochs/min"), (0.34, "20 epochs/min"), (0.0009, "3 epochs/h")]
)
def test_a_slow_pace_is_not_zero(pace: float, shown: str) -> None:
    assert speed(pace) == shown
