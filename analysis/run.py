"""A run whose results have been gathered, as an object for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from analysis.report.terminal import answer, paths, status_line, verdict_view
from analysis.tables.parquet import Frames
from analysis.tables.schema import Row
from analysis.text import PLAIN_WIDTH, console
from analysis.verdicts.baselines import Candidate, find_candidates, nearest_dense
from analysis.verdicts.groups import TICKET

if TYPE_CHECKING:
    import pandas as pd

LEADING = (
    "claim",
    "ladder",
    "target_sparsity_pct",
    "baseline",
    "verdict",
    "n_pairs",
    "effect",
    "ci_low",
    "ci_high",
    "why",
)
SHOWN = 3  # fields in which a dense trial differs
REMEDY = "train the dense network of the same fields and seeds too, dataclasses.replace(spec, control='dense')"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The results of a run.

    folder: path or URI; `python -m analysis` and `analysis.load` take it. ok: whether every trial that was asked for is
    done. failures: reasons by trial name. stopped_by: the limit or signal that ended it early. frames: all tables.
    notes: what the results lack, or what else should be known of them.
    """

    folder: str
    frames: Frames = field(repr=False)
    ok: bool = True
    failures: Mapping[str, str] = field(default_factory=dict)
    stopped_by: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def report(self) -> str:
        """Path or URI of the report."""
        return paths(self.folder)["report"]

    @property
    def answer(self) -> str:
        """The answer to the run's question, in one sentence."""
        return answer(self.frames.verdicts)

    def trials(self) -> pd.DataFrame:
        """One row per trial; docs/tables.md describes the columns."""
        return self.frames.trials

    def verdicts(self) -> pd.DataFrame:
        """One row per claim; the columns that say most come first. docs/tables.md describes them all."""
        frame = self.frames.verdicts
        return frame[[*LEADING, *(name for name in frame.columns if name not in LEADING)]]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """What a notebook shows: the table of verdicts, the answer, and where the files are."""
        shown = console()
        with shown.capture() as capture:
            rows = self.frames.rows("verdicts")
            if rows:
                shown.print(verdict_view(rows, PLAIN_WIDTH))
            shown.print(self.answer, status_line(self.frames), f"report  {self.report}", sep="\n")
        return {"text/plain": capture.get()}


def unpaired(frames: Frames) -> tuple[str, ...]:
    """What keeps tickets from being compared with their dense network, one line for each kind of ticket."""
    rows = [r for r in frames.rows("verdicts") if r["claim"] == "matches" and r["primary"] and r["role"] == TICKET]
    lacking = [row for row in rows if row["n_unpaired"] or not row["n_pairs"]]
    if not lacking:
        return ()
    trials = frames.rows("trials")
    candidates = {candidate.group.name: candidate for candidate in find_candidates(trials)}
    return tuple(f"{row['group']}: {_lack(row)}{_nearest(candidates[row['group']], trials)}" for row in lacking)


def _nearest(candidate: Candidate, trials: Sequence[Row]) -> str:
    """The dense trial that was perhaps meant, and the fields in which it is another."""
    found = nearest_dense(candidate, trials)
    if found is None or not found[2]:
        return ""
    ticket, dense, names = found
    theirs, ours = (", ".join(f"{name}={row[name]!r}" for name in names[:SHOWN]) for row in (dense, ticket))
    more = f" ({len(names) - SHOWN} other fields differ too)" if len(names) > SHOWN else ""
    return f"; the nearest, {dense['trial']}, has {theirs} where the ticket has {ours}{more}"


def _lack(row: Row) -> str:
    if not row["n_unpaired"]:
        return f"no pair: {row['why'].removeprefix('not tested: ')}; {REMEDY}"
    seeds = f"{row['n_unpaired']} of {row['n_pairs'] + row['n_unpaired']} seeds form no pair: {row['unpaired']}"
    return f"{seeds}; {REMEDY}" if "no dense trial" in row["unpaired"] else seeds
