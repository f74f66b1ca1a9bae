"""From the records of a run to tables, verdicts, figures and a report. It only reads files, without torch and Ray.

frames = analysis.gather("runs/digits")     # read what is new in the run, write Parquet, verdicts and report
run = analysis.adopt("runs/alone")           # the same for trials of `run_trial` or of your own Tuner; `run.frames`
frames = analysis.load("runs/digits")       # read the Parquet that was written
frames = analysis.load_many(["runs/a", "runs/b"])    # of several runs; the column run tells them apart
frames.verdicts, frames.trials, frames.epochs, frames.levels, frames.layers, frames.overlaps, frames.signs    # pandas
frames.rows("verdicts"), frames.tables["verdicts"]    # the same as plain dicts, as Arrow
"""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m analysis`, before the imports below, which take a second
    from lth_trainable import signals

    signals.install()

from analysis.adopt import adopt
from analysis.gather import gather
from analysis.report.terminal import answer, show, verdict_table
from analysis.run import Run
from analysis.tables.parquet import Frames, as_rows, load, load_many

__all__ = ["Frames", "Run", "adopt", "answer", "as_rows", "gather", "load", "load_many", "show", "verdict_table"]
