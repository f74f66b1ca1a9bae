"""From the records of a run to knowledge: tables, verdicts, figures, report. Reads files only; no torch, no Ray.

frames = analysis.gather("runs/digits")     # read what is new in the run's files, write Parquet, verdicts and report
frames = analysis.load("runs/digits")       # read the Parquet that is there
frames = analysis.load_many(["runs/a", "runs/b"])    # of several runs, told apart by the column run
frames.verdicts, frames.trials, frames.epochs, frames.levels, frames.layers, frames.overlaps, frames.signs
"""

from analysis.gather import gather
from analysis.report.terminal import answer, show, verdict_table
from analysis.tables.parquet import Frames, as_rows, load, load_many

__all__ = ["Frames", "answer", "as_rows", "gather", "load", "load_many", "show", "verdict_table"]
