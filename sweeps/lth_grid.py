"""The main job: lay out the trials of a recipe, train what is missing, gather, test, print.

    python -m sweeps.lth_grid [RECIPE] [--sparsity 50 80 90] [--seeds 5] [--dry-run] ...

Exit code: 0 when every planned trial is done, 1 when trials failed, 2 for bad input, 130 after an interrupt.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lth_trainable.data import load_dataset
from lth_trainable.errors import UserError
from sweeps.arguments import Options, parse
from sweeps.estimate import seconds_per_epoch, sweep_seconds
from sweeps.launch import Outcome, Resources, launch
from sweeps.ledger import Ledger, open_ledger
from sweeps.progress import Board, duration
from sweeps.recipes import RECIPES, Sweep
from sweeps.space import Space, expand

PLAIN_WIDTH = 100  # of tables where standard output is no terminal
OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    try:
        options, sweep = parse(argv)
        return show_recipes(options) if options.list else run(options, sweep, list(sys.argv if argv is None else argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; what is finished stays: the same command goes on", file=sys.stderr)
        return INTERRUPTED


def run(options: Options, sweep: Sweep, command: list[str]) -> int:
    """Train what is missing of the sweep, then gather and test; or show what that would be."""
    started = time.monotonic()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    resources = Resources(
        cpus=options.cpus_per_trial, gpus=options.gpus_per_trial, max_concurrent=options.max_concurrent
    )
    resources.check()
    space = expand(sweep)
    ledger = open_ledger(options.storage, options.name or sweep.name, space.trials, _keys(space, options))
    for note in space.notes:
        _say(console, f"note: {note}")
    if options.dry_run:
        return show_plan(console, options, space, ledger, resources)
    ledger.check_writable()
    done, reports = ledger.take_stock(repair=True)
    for report in reports:
        _say(console, f"note: {report}", "yellow")
    todo = [spec for spec in space.trials if spec.name not in done]
    ledger.write_plan(sweep, _as_typed(command))
    board = Board(planned=len(space.trials), skipped=len(done), epochs_planned=sum(s.epochs_alone for s in todo))
    _say(console, f"{sweep.claim}\n{_todo_line(board, ledger)}")
    outcome = Outcome(epochs=0, failures={}, interrupted=False)
    if todo:
        execution = {"data_root": options.data_root.resolve() if options.data_root else None}
        outcome = launch(ledger, todo, resources, execution, board)
    verdicts = _conclude(console, ledger)
    now_done = ledger.take_stock(repair=False)[0]
    summary = {
        "run": ledger.path, "planned": len(space.trials), "done": len(now_done), "failed": len(outcome.failures),
        "skipped": len(done), "epochs_requested": space.epochs, "epochs_trained": outcome.epochs,
        "wall_s": round(time.monotonic() - started, 2), "verdicts": verdicts,
    }  # fmt: skip
    return _finish(console, options, summary, outcome)


def show_recipes(options: Options) -> int:
    """The recipes, a line each; with --json as an object of name and claim."""
    if options.json:
        print(json.dumps({name: recipe().claim for name, recipe in RECIPES.items()}))
        return OK
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("recipe", "trials", "epochs", "question"):
        table.add_column(heading, justify="right" if heading in ("trials", "epochs") else "left")
    for name, recipe in RECIPES.items():
        space = expand(recipe())
        table.add_row(name, str(len(space.trials)), f"{space.epochs:,}", recipe().claim)
    Console().print(table)
    return OK


def show_plan(console: Console, options: Options, space: Space, ledger: Ledger, resources: Resources) -> int:
    """What the command would train, and how long that takes; nothing is written."""
    done, reports = ledger.take_stock(repair=False)
    todo = [spec for spec in space.trials if spec.name not in done]
    epochs = sum(spec.epochs_alone for spec in todo)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("trial")
    table.add_column("epochs", justify="right")
    table.add_column("")
    for spec in space.trials:
        table.add_row(spec.name, str(spec.epochs_alone), "done" if spec.name in done else "")
    console.print(table)
    for report in reports:
        _say(console, f"note: {report}", "yellow")
    slots = resources.slots()
    line = f"{len(space.trials)} trials, {len(done)} done; {space.epochs:,} epochs asked for, {epochs:,} to train"
    estimate = None
    if todo:
        per_epoch, source = seconds_per_epoch(ledger, todo, options.data_root)
        estimate = sweep_seconds(epochs, per_epoch, min(slots, len(todo)))
        line += (
            f"; about {duration(estimate)} with {slots} trials at a time ({per_epoch * 1e3:.0f} ms an epoch, {source})"
        )
    _say(console, line)
    if options.json:
        content = {
            "run": ledger.path, "trials": len(space.trials), "done": len(done), "epochs_requested": space.epochs,
            "epochs_to_train": epochs, "estimated_s": estimate,
        }  # fmt: skip
        print(json.dumps(content))
    return OK


def _keys(space: Space, options: Options) -> dict[str, str]:
    digests = {
        (spec.dataset, spec.split_seed): load_dataset(spec.dataset, options.data_root, spec.split_seed).digest
        for spec in space.trials
    }
    return {spec.name: spec.key(digests[spec.dataset, spec.split_seed]) for spec in space.trials}


def _conclude(console: Console, ledger: Ledger) -> list[dict[str, Any]]:
    """Gather, test, print the verdicts; returns them as JSON-ready rows."""
    import analysis

    frames = analysis.gather(ledger.path)
    analysis.show(console, frames, ledger.path)
    return analysis.as_rows(frames.verdicts)


def _todo_line(board: Board, ledger: Ledger) -> str:
    missing = board.planned - board.skipped
    from_before = f"{board.skipped} done before, " if board.skipped else ""
    return (
        f"{board.planned} trials: {from_before}{missing} to train, {board.epochs_planned:,} epochs  ->  {ledger.path}"
    )


def _finish(console: Console, options: Options, summary: dict[str, Any], outcome: Outcome) -> int:
    for name, reason in sorted(outcome.failures.items()):
        _say(console, f"failed: {name}: {reason}", "red")
    if outcome.interrupted:
        _say(console, "interrupted; what is finished stays: the same command goes on", "yellow")
    if options.json:
        print(json.dumps(summary), flush=True)
    if outcome.interrupted:
        return INTERRUPTED
    return OK if summary["done"] == summary["planned"] else FAILED


def _say(console: Console, text: str, style: str = "") -> None:
    """One paragraph, wrapped by the terminal alone: a log keeps whole lines, and names keep their brackets."""
    console.print(text, style=style, soft_wrap=True, markup=False)


def _as_typed(command: list[str]) -> list[str]:
    return ["python", "-m", "sweeps.lth_grid", *command[1:]] if command and os.path.sep in command[0] else command


if __name__ == "__main__":
    sys.exit(main())
