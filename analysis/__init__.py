"""From the records of a run to knowledge: tables, verdicts, figures, report. Reads files only; no torch, no Ray.

frames = analysis.gather("runs/digits")     # read the run's files, write Parquet, verdicts and report
frames = analysis.load("runs/digits")       # read the Parquet that is there
frames.verdicts, frames.trials, frames.epochs, frames.layers
"""

from analysis.frames import Frames, as_rows, load
from analysis.gather import gather
from analysis.terminal import answer, show, verdict_table

__all__ = ["Frames", "answer", "as_rows", "gather", "load", "show", "verdict_table"]
