"""What a sweep tells its loggers at its end: the verdicts of its run, and the tickets that are worth keeping there."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lth_trainable.store.store import Store

if TYPE_CHECKING:
    from analysis.export.choice import Choice
    from analysis.tables.parquet import Frames
    from analysis.tables.schema import Row

MATCHING = "matching"  # of `analysis.export.choice`, which takes a second to import
COLUMNS = (
    "ladder", "target_sparsity_pct", "sparsity_pct", "baseline", "endpoint", "n_pairs", "mean_ticket", "mean_baseline",
    "effect", "ci_low", "ci_high", "margin_pp", "verdict", "shown_lower", "why",
)  # fmt: skip
NUMBERS = ("sparsity_pct", "effect", "ci_low", "ci_high", "n_pairs")
COUNTS = {
    "n_beats": "beats", "n_matches": "matches", "n_within_margin_lower": "within the margin, lower",
    "n_falls_short": "falls short", "n_undecided": "undecided",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """The verdicts of a run as loggers show them.

    identity: of the run, the same whenever its command is repeated on the same storage. answer: one sentence. rows: the
    comparisons with dense networks, see `analysis.verdicts.headlines`. choice: the tickets to log, and why.
    data_root: of data sets in files. groups: of the trials, by their names.
    """

    store: Store
    run: str
    identity: str
    answer: str
    rows: Sequence[Row]
    choice: Choice
    data_root: Path | None = None
    groups: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, store: Store, run: str, frames: Frames, wanted: Sequence[str] = (MATCHING,), data_root: Path | None = None
    ) -> Conclusion:
        """wanted: what `--log-tickets` says. Raises `UserError` for a ticket that is not there."""
        from analysis.export.choice import choose
        from analysis.verdicts.answer import answer_sentence
        from analysis.verdicts.headlines import headlines

        trials, verdicts = frames.rows("trials"), frames.rows("verdicts")
        return cls(
            store=store, run=run, identity=hashlib.sha256(f"{store.root}\n{run}".encode()).hexdigest()[:12],
            answer=answer_sentence(verdicts), rows=headlines(verdicts),
            choice=choose(trials, verdicts, wanted, "--log-tickets"), data_root=data_root,
            groups={row["trial"]: row["group"] for row in trials},
        )  # fmt: skip

    def table(self) -> tuple[Sequence[str], list[list[Any]]]:
        """The comparisons as column names and rows."""
        return COLUMNS, [[row[column] for column in COLUMNS] for row in self.rows]

    def verdicts(self) -> dict[str, str]:
        """The verdict of each comparison by its name."""
        return {_name(row): row["verdict"] for row in self.rows}

    def numbers(self) -> dict[str, float]:
        """Counts of verdicts, and for each comparison effect, interval and so on: "NAME/effect"."""
        found: dict[str, float] = {
            name: sum(row["verdict"] == word for row in self.rows) for name, word in COUNTS.items()
        }
        found["shown_lower"] = sum(row["shown_lower"] for row in self.rows)
        measured = {f"{_name(row)}/{of}": row[of] for row in self.rows for of in NUMBERS}
        return {**found, **{name: value for name, value in measured.items() if value is not None}}

    def about(self, trial: str) -> Mapping[str, Any]:
        """What is said beside a logged ticket."""
        ours = [row for row in self.rows if row["group"] == self.groups.get(trial)]
        return {"run": self.run, "trial": trial, "chosen": self.choice.why, **{_name(r): r["verdict"] for r in ours}}

    @contextlib.contextmanager
    def exported(self, trial: str) -> Iterator[Path]:
        """A folder with weights and masks of a ticket while the block runs, with a model card if that can be made.

        Raises `UserError` if its weights cannot be read.
        """
        from analysis.export.hub import PACKAGE, export_to_hub
        from analysis.export.tickets import export

        path = self.store.at(self.store.trial(self.run, trial))
        with tempfile.TemporaryDirectory(prefix="lth-ticket-") as folder:
            if importlib.util.find_spec(PACKAGE) is not None:
                yield export_to_hub([path], Path(folder, trial), data_root=self.data_root).path
            else:
                yield export([path], folder)[0].path


def _name(row: Row) -> str:
    return f"{row['group']} vs {row['baseline']}"
