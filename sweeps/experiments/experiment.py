"""Prepare an experiment: a sweep together with its trials and its imported tickets, so that each is made only once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.published.claims import claims_of
from analysis.tables.run_plan import PUBLISHED
from lth_trainable.store.store import Store
from sweeps.experiments.expand import Trials, expand
from sweeps.experiments.imported_tickets import Files, import_tickets
from sweeps.experiments.recipes import Sweep

if TYPE_CHECKING:
    from lth_trainable.tickets.imported import ImportedTicket


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A sweep with all its trials.

    imported: tickets that some of them start from. notes: for the user, on how the trials were chosen.
    """

    sweep: Sweep
    trials: Trials
    imported: tuple[ImportedTicket, ...] = ()
    notes: tuple[str, ...] = ()


def prepare(sweep: Sweep, files: Files, store: Store, data_root: Path | None) -> Experiment:
    """The experiment of a sweep. Its tickets are imported if `files` names any; else the trials find them.

    Nothing is written. Raises `UserError` if a ticket cannot be read or the sweep has no trials.
    """
    imported: tuple[ImportedTicket, ...] = ()
    of_tickets: tuple[str, ...] = ()
    if files.tickets:
        sweep, imported, of_tickets = import_tickets(sweep, files, store, data_root)
    else:
        files.check()
    claims_of(f"{sweep.name}, {PUBLISHED}", sweep.published)  # a mistake is told before anything is planned
    trials = expand(sweep, data_root)
    return Experiment(
        sweep=sweep, trials=trials, imported=imported, notes=(*of_tickets, *trials.notes, *_looks_note(sweep))
    )


def _looks_note(sweep: Sweep) -> list[str]:
    """A note on the planned interim looks; none if the sweep has none."""
    if not sweep.looks:
        return []
    seeds = ", ".join(map(str, sweep.looks))
    return [f"interim looks at {seeds} seeds; the sweep ends at the first look that settles every ladder"]
