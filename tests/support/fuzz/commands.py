"""Every command and every reading function of the library, on the storage of `storage.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import analysis
from analysis.__main__ import main as analyse
from lth_trainable.check import command as check
from lth_trainable.errors import FAILED, OK, UserError
from lth_trainable.store.store import Damaged, Store
from lth_trainable.store.trials import finished_trials, load_masks, load_trial, read_failure
from sweeps.lth_grid import main as grid
from sweeps.lth_search import main as search
from sweeps.recipe import main as recipe
from sweeps.runs.lock import read_driver
from sweeps.status import main as status
from sweeps.storage import main as storage
from sweeps.verify import main as verify
from tests.support.fuzz.storage import OUT, RUNS, SEARCH, TICKET, TICKETS, TINY


@dataclass(frozen=True, kw_only=True)
class Command:
    """main: returns an exit code. argv: from the root of the storage's surroundings. codes: exit codes that may be.

    trains: whether it takes seconds, since it trains what is damaged.
    """

    main: Callable[[Sequence[str]], int]
    argv: Callable[[Path], Sequence[str]]
    codes: frozenset[int] = frozenset({0, 2})
    trains: bool = False

    def run(self, root: Path) -> int:
        return self.main([str(part) for part in self.argv(root)])


def _command(main: Callable[[Any], int], *argv: str, codes: Sequence[int] = (0, 2), trains: bool = False) -> Command:
    return Command(
        main=main, argv=lambda root: [part.format(root=root) for part in argv], codes=frozenset(codes), trains=trains
    )


A, OTHER = f"{{root}}/{RUNS}/a", f"{{root}}/{RUNS}/other"
STORAGE, WRITTEN, TICKET_FOLDER = f"{{root}}/{RUNS}", f"{{root}}/{OUT}", f"{{root}}/{TICKETS}/{TICKET}"
IMPORT = (*TINY[:3], "--baselines", "none", "--controls", "none", "--seeds", "1", "--name", "imported",
          "--storage", STORAGE)  # fmt: skip
GRID = (*TINY, "--seeds", "2", "--name", "a", "--storage", STORAGE)

COMMANDS: Mapping[str, Command] = {
    "dry run": _command(grid, *GRID, "--dry-run", "--json"),
    "dry run of other": _command(grid, *TINY, "--seeds", "4", "--name", "other", "--storage", STORAGE, "--dry-run"),
    "plan figure": _command(grid, *GRID, "--plan-figure", f"{WRITTEN}/plan.svg"),
    "dry run of an import": _command(grid, *IMPORT, "--import-ticket", TICKET_FOLDER, "--dry-run"),
    "submit": _command(grid, *GRID, "--cluster", "{root}/cluster.yaml"),
    "dry run of a recipe": _command(grid, "my_recipe:recipe", "--storage", STORAGE, "--dry-run"),
    "recipe": _command(recipe, "show", "my_recipe:recipe", "--json"),
    "check a plug-in": _command(check, "my_plug_in:criterion", codes=(0, 1, 2)),
    "status": _command(status, A),
    "status as JSON": _command(status, OTHER, "--json"),
    "status of a trial": _command(status, A, TICKET),
    "status of a trial as JSON": _command(status, OTHER, "seed0", "--json"),
    "status of a failed trial": _command(status, OTHER, TICKET.replace("seed0", "seed2")),
    "status of a search": _command(status, f"{STORAGE}/search"),
    "du": _command(storage, "du", STORAGE),
    "du as JSON": _command(storage, "du", STORAGE, "--json"),
    "check": _command(storage, "check", STORAGE, codes=(0, 1, 2)),
    "gc, dry": _command(storage, "gc", STORAGE, "--dry-run", "--json"),
    "gather": _command(analyse, A),
    "gather as JSON": _command(analyse, A, "--json"),
    "gather other": _command(analyse, OTHER, "--geometry", "all"),
    "gather a search": _command(analyse, f"{STORAGE}/search"),
    "exclude": _command(analyse, A, "--exclude", TICKET, "--reason", "a test"),
    "include": _command(analyse, OTHER, "--include", TICKET),
    "pack": _command(analyse, "pack", A, "--out", f"{WRITTEN}/a.tar.gz", "--tickets", "all"),
    "barrier, dry": _command(analyse, "barrier", A, "--dry-run"),
    "barrier": _command(analyse, "barrier", A, "--points", "3", "--seeds", "1", trains=True),
    "figures": _command(analyse, "figures", A, "--format", "svg", "--out", f"{WRITTEN}/figures"),
    "figures of a search": _command(analyse, "figures", f"{STORAGE}/search", "--out", f"{WRITTEN}/figures"),
    "compare": _command(analyse, "compare", A, OTHER, "--json"),
    "merge": _command(analyse, "merge", A, OTHER, "--into", f"{WRITTEN}/merged/run"),
    "published": _command(analyse, "published", A, "--margin", "lenet_early_stop_21=10", "--json"),
    "export": _command(analyse, "export", f"{A}/trials/{TICKET}", "--out", f"{WRITTEN}/exports"),
    "export by name": _command(analyse, "export", A, TICKET, "--out", f"{WRITTEN}/exports", "--json"),
    "export again": _command(analyse, "export", A, TICKET, "--out", f"{{root}}/{TICKETS}"),
    "verify": _command(verify, A, "--trials", "2", codes=(0, 1, 2), trains=True),
    "gc": _command(storage, "gc", STORAGE),
    "search": _command(search, *SEARCH, "--name", "search", "--storage", STORAGE, codes=(0, 1, 2), trains=True),
    "import": _command(grid, *IMPORT, "--import-ticket", TICKET_FOLDER, codes=(0, 1, 2), trains=True),
    "sweep": _command(grid, *GRID, codes=(0, 1, 2), trains=True),
    "sweep again": _command(grid, *GRID, "--retry-failed", codes=(0, 1, 2), trains=True),
}  # fmt: skip


# -- the library -------------------------------------------------------------------------------------------------------


def _store(root: Path) -> None:
    store = Store(root / RUNS)
    for run in ("a", "other"):
        read_driver(store, run)
        for name in store.folders(f"{run}/trials"):
            read_failure(store, store.trial(run, name))
    for folder, _ in finished_trials(store, "a"):
        load_masks(store, folder)


LIBRARY: Mapping[str, Callable[[Path], object]] = {
    "load_trial": lambda root: load_trial(root / RUNS / "a" / "trials" / TICKET),
    "load_trial, rewind": lambda root: load_trial(root / RUNS / "other" / "trials" / TICKET, "rewind"),
    "load": lambda root: analysis.load(root / RUNS / "a"),
    "store": _store,
}
READING = (UserError, Damaged)  # what these functions may raise: both have one line that names the folder


def library_command(name: str) -> Command:
    """A function of the library as a command: what it may raise is printed like the error of one."""

    def run(argv: Sequence[str]) -> int:
        import sys

        try:
            LIBRARY[name](Path(argv[0]))
        except READING as error:
            print(f"error: {error}", file=sys.stderr)
            return FAILED
        return OK

    return Command(main=run, argv=lambda root: [str(root)], codes=frozenset({0, 1}))


ALL: Mapping[str, Command] = {**COMMANDS, **{name: library_command(name) for name in LIBRARY}}
