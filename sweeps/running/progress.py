"""The live view of a sweep: several lines in a terminal or notebook, otherwise one plain line every few seconds."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, Task, TextColumn
from rich.table import Column, Table
from rich.text import Text

from analysis.text import PlainConsole, duration, in_notebook
from sweeps.running.notebook_view import Output
from sweeps.running.resources import Spent

BAR = 40  # columns
REFRESHES_PER_SECOND = 4
PLAIN_SECONDS, NOTEBOOK_SECONDS = 5.0, 1.0
SETTLING_SECONDS = 3.0
NEWEST = 8


@dataclass(kw_only=True)
class Board:
    """What the live view shows of a sweep. It only reads the counts in `spent`; no decision depends on it.

    planned: trials. skipped: those that earlier commands have finished. epochs_planned: that this command will train.
    cluster: its nodes and GPUs in words; None on one machine. suggestions: of a search, finished and in all; how many
    epochs a search will train is not known in advance.
    """

    planned: int
    spent: Spent = field(default_factory=Spent)
    skipped: int = 0
    epochs_planned: int = 0
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)
    newest: deque[tuple[str, Mapping[str, Any]]] = field(default_factory=lambda: deque(maxlen=NEWEST))
    cluster: str | None = None
    suggestions: tuple[int, int] | None = None
    bar: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()
        self.bar = Progress(
            # on a narrow terminal the bar shrinks, so that the view keeps its height
            BarColumn(None, complete_style="cyan", finished_style="green", table_column=Column(max_width=BAR)),
            TextColumn("{task.description}", style="dim", table_column=Column(no_wrap=True)),
            auto_refresh=False, speed_estimate_period=math.inf, get_time=self.clock,
        )  # fmt: skip
        self.bar.add_task("epochs", total=None, start=False, visible=False)
        self.bar.add_task("", start=False)

    def show(self, trial: str, result: Mapping[str, Any]) -> None:
        """Add a finished trial to the newest results."""
        self.newest.append((trial, result))

    def refresh(self) -> None:
        """Update the bar from `spent`. Rich measures the speed from these updates."""
        epochs, shown = self.bar.tasks
        if self.spent.epochs and not epochs.started:
            self.bar.start_task(epochs.id)
            self.bar.start_task(shown.id)
        planned = None if self.suggestions else self.epochs_planned
        self.bar.update(epochs.id, completed=self.spent.epochs, total=planned)
        done, of = self.suggestions or (self.spent.epochs, self.epochs_planned)
        self.bar.update(shown.id, completed=done, total=max(of, 1), description=_pace(self, " of ", "  ·  "))

    @property
    def done(self) -> int:
        return self.skipped + len(self.spent.finished)

    @property
    def seconds(self) -> float:
        return self.clock() - self.started

    @property
    def pace(self) -> Task:
        """The epochs as a task of Rich, which has their speed and the time left."""
        return self.bar.tasks[0]


class LiveView:
    """Shows a `Board` until the block ends: `with LiveView(board): ...`."""

    def __init__(self, board: Board, stream: IO[str] | None = None) -> None:
        self.board = board
        self.console = PlainConsole(file=stream or sys.stdout)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._output: Output | None = None
        self._live: Live | None = None

    def __enter__(self) -> LiveView:
        if self.console.is_terminal and self.console.file.isatty():  # not only because of FORCE_COLOR
            self._live = Live(
                console=self.console, get_renderable=lambda: view(self.board), refresh_per_second=REFRESHES_PER_SECOND
            )
            self._live.start()
            return self
        if in_notebook():
            self._output = Output()
        self._thread = threading.Thread(target=self._plain if self._output is None else self._redraw, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._live is not None:
            self._live.stop()
        if self._thread is not None:
            self._thread.join()
            if self._output is None:
                self._line()
            else:
                self._output.show(view(self.board))

    def _redraw(self) -> None:
        assert self._output is not None
        while not self._stop.wait(NOTEBOOK_SECONDS):
            self._output.show(view(self.board))

    def _plain(self) -> None:
        written = self.board.clock()
        while not self._stop.wait(1 / REFRESHES_PER_SECOND):
            self.board.refresh()
            if self.board.clock() - written >= PLAIN_SECONDS:
                self._line()
                written = self.board.clock()

    def _line(self) -> None:
        self.console.file.write(line(self.board) + "\n")
        self.console.file.flush()


def line(board: Board) -> str:
    """The sweep in one line."""
    board.refresh()
    parts = [f"{board.done}/{board.planned} trials", f"{len(board.spent.running)} running"]
    if board.spent.failed:
        parts.append(f"{len(board.spent.failed)} failed")
    if board.suggestions:
        parts.insert(0, "{}/{} suggestions".format(*board.suggestions))
    parts.append(_pace(board, "/", ", "))
    if board.cluster:
        parts.append(board.cluster)
    return f"[{duration(board.seconds)}] " + ", ".join(parts)


def _pace(board: Board, of: str, between: str) -> str:
    """Epochs, speed and time left: `120 of 700 epochs  ·  10 epochs/s  ·  0:58 left`."""
    task = board.pace
    planned = "" if board.suggestions else f"{of}{board.epochs_planned:,}"
    parts = [f"{board.spent.epochs:,}{planned} epochs"]
    if task.elapsed is None:
        parts.append("warming up the workers")
    elif task.speed is None or task.elapsed < SETTLING_SECONDS:
        parts.append("measuring the pace")
    else:
        parts.append(speed(task.speed))
        parts += [f"{duration(task.time_remaining)} left"] if task.time_remaining is not None else []
    return between.join(parts)


def speed(epochs_per_second: float) -> str:
    """The pace in the unit in which it is at least 1: `10 epochs/s`, `20 epochs/min`, `3 epochs/h`."""
    for unit, seconds in (("s", 1), ("min", 60)):
        if epochs_per_second * seconds >= 1:
            return f"{epochs_per_second * seconds:.0f} epochs/{unit}"
    return f"{epochs_per_second * 3600:.0f} epochs/h"


def view(board: Board) -> RenderableType:
    """The sweep in a few lines: counts, bar, newest results."""
    board.refresh()
    counts = Text.assemble((f"{board.done}", "bold green"), f" of {board.planned} trials done  ·  ")
    if board.suggestions:
        counts = Text.assemble(
            (f"{board.suggestions[0]}", "bold green"), f" of {board.suggestions[1]} suggestions  ·  ", counts
        )
    counts.append(f"{len(board.spent.running)}", "bold cyan").append(" running")
    if board.spent.failed:
        counts.append("  ·  ").append(f"{len(board.spent.failed)} failed", "bold red")
    if board.skipped:
        counts.append(f"  ·  {board.skipped} from before", "dim")
    if board.cluster:
        counts.append(f"  ·  {board.cluster}", "dim")
    return Group(Text(), counts, board.bar.get_renderable(), _newest(board), Text())


def _newest(board: Board) -> Table:
    table = Table(box=None, show_header=bool(board.newest), header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("newest")
    table.add_column("sparsity", justify="right")
    table.add_column("test accuracy", justify="right")
    for trial, result in reversed(board.newest):
        accuracy = result.get("test_accuracy")
        shown = Text("diverged", style="red") if accuracy is None else Text(f"{100 * accuracy:.2f} %", style="bold")
        table.add_row(trial, f"{result.get('sparsity_pct', 0):.2f} %", shown)
    return table
