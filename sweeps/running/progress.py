"""Live progress of a sweep: a rich view in a terminal, one plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from analysis.text import duration

BAR = 40  # columns
PLAIN_SECONDS = 5.0
SETTLING_SECONDS = 3.0
NEWEST = 8


@dataclass(kw_only=True)
class Board:
    """What is known of a sweep while it runs. Epochs are this command's, `epochs_planned` what it set out for.

    cluster: its nodes and GPUs in words; None on one machine. suggestions: of a search, told of and in all: what its
    epochs will be is not known beforehand.
    """

    planned: int
    skipped: int = 0
    shared: int = 0
    epochs_planned: int = 0
    started: float = field(default_factory=time.monotonic)
    running: dict[str, int] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    newest: deque[tuple[str, Mapping[str, Any]]] = field(default_factory=lambda: deque(maxlen=NEWEST))
    first_epoch: float | None = None
    epochs_before: int = 0
    epochs_of_stopped: int = 0
    levels: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cluster: str | None = None
    suggestions: tuple[int, int] | None = None

    def epoch(self, trial: str, epochs: int, level: int = 0) -> None:
        """A running trial has trained `epochs` epochs so far, and is at `level`."""
        self.running[trial] = epochs
        self.levels[trial] = level
        self._note_first()

    def complete(self, trial: str, result: Mapping[str, Any]) -> None:
        self.running.pop(trial, None)
        self.failed.discard(trial)
        self.finished[trial] = int(result.get("epochs_done", 0))
        self.newest.append((trial, result))
        self._note_first()

    def share(self, trial: str, result: Mapping[str, Any]) -> None:
        """A trial was recorded whose every epoch others have trained."""
        self.shared += 1
        self.complete(trial, {**result, "epochs_done": 0})

    def stop(self, trial: str) -> None:
        """A trial was stopped before its end; what it has trained counts."""
        self.epochs_of_stopped += self.running.pop(trial, 0)

    def fail(self, trial: str) -> None:
        self.stop(trial)
        self.failed.add(trial)

    def now(self) -> dict[str, dict[str, int]]:
        """Epochs and level of each running trial."""
        return {trial: {"epochs": n, "level": self.levels.get(trial, 0)} for trial, n in list(self.running.items())}

    @property
    def done(self) -> int:
        return self.skipped + len(self.finished)

    @property
    def epochs(self) -> int:
        """Epochs trained by this command."""
        return sum(self.finished.values()) + sum(self.running.values()) + self.epochs_of_stopped

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def rate(self) -> float | None:
        """Epochs a second since the first report of any; None while it is too early to say."""
        if self.first_epoch is None or time.monotonic() - self.first_epoch < SETTLING_SECONDS:
            return None
        return (self.epochs - self.epochs_before) / (time.monotonic() - self.first_epoch)

    def _note_first(self) -> None:
        if self.first_epoch is None and self.epochs:
            self.first_epoch, self.epochs_before = time.monotonic(), self.epochs

    @property
    def eta(self) -> float | None:
        """Seconds left at this rate; None while unknown."""
        return None if not self.rate or self.suggestions else max(0, self.epochs_planned - self.epochs) / self.rate


class Progress:
    """Shows a `Board` until the block ends: `with Progress(board): ...`."""

    def __init__(self, board: Board, stream: IO[str] | None = None) -> None:
        self.board = board
        self.console = Console(file=stream or sys.stdout)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=lambda: view(self.board), refresh_per_second=4)
            self._live.start()
        else:
            self._thread = threading.Thread(target=self._plain, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._live is not None:
            self._live.stop()
        if self._thread is not None:
            self._thread.join()
            self._line()

    def _plain(self) -> None:
        while not self._stop.wait(PLAIN_SECONDS):
            self._line()

    def _line(self) -> None:
        self.console.file.write(line(self.board) + "\n")
        self.console.file.flush()


def line(board: Board) -> str:
    """The sweep in one line."""
    parts = [f"{board.done}/{board.planned} trials", f"{len(board.running)} running"]
    if board.failed:
        parts.append(f"{len(board.failed)} failed")
    if board.suggestions:
        parts.insert(0, "{}/{} suggestions".format(*board.suggestions))
    parts.append(f"{_epochs(board, '/')} epochs")
    parts.append(_pace(board) if board.rate is None else f"{board.rate:.0f} epochs/s")
    if board.eta is not None:
        parts.append(f"{duration(board.eta)} left")
    if board.cluster:
        parts.append(board.cluster)
    return f"[{duration(board.seconds)}] " + ", ".join(parts)


def _epochs(board: Board, of: str) -> str:
    return f"{board.epochs:,}" if board.suggestions else f"{board.epochs:,}{of}{board.epochs_planned:,}"


def _pace(board: Board) -> str:
    return "warming up the workers" if board.first_epoch is None else "measuring the pace"


def view(board: Board) -> RenderableType:
    """The sweep as a panel of a few lines: counts, bar, newest results."""
    counts = Text.assemble((f"{board.done}", "bold green"), f" of {board.planned} trials done  ·  ")
    if board.suggestions:
        counts = Text.assemble(
            (f"{board.suggestions[0]}", "bold green"), f" of {board.suggestions[1]} suggestions  ·  ", counts
        )
    counts.append(f"{len(board.running)}", "bold cyan").append(" running")
    if board.failed:
        counts.append("  ·  ").append(f"{len(board.failed)} failed", "bold red")
    if board.skipped:
        counts.append(f"  ·  {board.skipped} from before", "dim")
    if board.cluster:
        counts.append(f"  ·  {board.cluster}", "dim")
    rate = _pace(board) if board.rate is None else f"{board.rate:.0f} epochs/s"
    left = "" if board.eta is None else f"  ·  {duration(board.eta)} left"
    bar = Table.grid(padding=(0, 2))
    bar.add_column(max_width=BAR)
    bar.add_column(no_wrap=True)  # on a narrow terminal the bar gives way, so that the view keeps its height
    bar.add_row(
        ProgressBar(
            total=max(board.suggestions[1] if board.suggestions else board.epochs_planned, 1),
            completed=board.suggestions[0] if board.suggestions else board.epochs,
            complete_style="cyan",
            finished_style="green",
        ),
        Text(f"{_epochs(board, ' of ')} epochs  ·  {rate}{left}", style="dim"),
    )
    return Group(Text(), counts, bar, _newest(board), Text())


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
