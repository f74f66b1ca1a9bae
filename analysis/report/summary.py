"""The results of a run as one object, for `--json`."""

from __future__ import annotations

from analysis.report.terminal import counts_by_status, paths
from analysis.tables.parquet import Frames
from analysis.verdicts.answer import answer_sentence


def summary(frames: Frames, run: str) -> dict[str, object]:
    """What `--json` prints: run, answer, number of trials in each status, verdict rows, files."""
    return {
        "run": run,
        "answer": answer_sentence(frames.rows("verdicts")),
        "trials": counts_by_status(frames),
        "verdicts": frames.rows("verdicts"),
        "files": paths(run),
    }
