"""An experiment as a command carries it out: a sweep with its trials and imported tickets, made once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lth_trainable.store.store import Store
from sweeps.experiments.expand import Trials, expand
from sweeps.experiments.imported_tickets import Files, import_tickets
from sweeps.experiments.recipes import Sweep

if TYPE_CHECKING:
    from lth_trainable.tickets.imported import Imported


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A sweep with all its trials.

    imported: tickets that some of them start from. notes: for a person, on how the trials came about.
    """

    sweep: Sweep
    trials: Trials
    imported: tuple[Imported, ...] = ()
    notes: tuple[str, ...] = ()


def prepare(sweep: Sweep, files: Files, store: Store, data_root: Path | None) -> Experiment:
    """The experiment of a sweep whose tickets are found by its trials, or imported from these files.

    Nothing is written. Raises `UserError` where a ticket cannot be read, or the sweep has no trials.
    """
    imported: tuple[Imported, ...] = ()
    of_tickets: tuple[str, ...] = ()
    if files.tickets:
        sweep, imported, of_tickets = import_tickets(sweep, files, store, data_root)
    else:
        files.check()
    trials = expand(sweep, data_root)
    return Experiment(
        sweep=sweep, trials=trials, imported=imported, notes=(*of_tickets, *trials.notes, *_looks_note(sweep))
    )


def _looks_note(sweep: Sweep) -> list[str]:
    """What the plan of looks is, in words; nothing of a sweep without one."""
    if not sweep.looks:
        return []
    return [f"looks at {', '.join(map(str, sweep.looks))} seeds; it ends at the first that settles every ladder"]
