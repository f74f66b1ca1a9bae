"""The page of a kept result, in Markdown: what was found, beside what was published; what was run; what it took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.export.results_table import rows_of, sentence_of
from analysis.figures.published import published_figure
from analysis.figures.style import COLOURS, to_svg
from analysis.tables.parquet import load
from analysis.tables.run_plan import KEPT, find_run, read_plan
from analysis.text import duration

PAGE, FIGURE = "README.md", "published-{}.svg"  # of each theme
_PICTURE = """<picture>
  <source media="(prefers-color-scheme: dark)" srcset="{dark}">
  <img alt="Curves of this run with intervals; hollow marks and dotted lines are published figures" src="{light}">
</picture>
"""
_HOW_TO_READ = (
    "*Here*: the figure of this run, then its difference from the published one with the 95 % interval over n seeds; "
    "without a published figure, tickets minus dense. *Agrees*: the whole interval lies within the margin. "
    "*Disagrees*: all of it lies outside. *Undecided*: neither is shown. [More](../README.md#what-the-words-mean)."
)
_FILES = (
    "[report.html](report.html) has all figures and verdicts; open it in a browser. "
    "[How to read, repeat and cite](../README.md) these files."
)


def page(kept: Path, about: str) -> str:
    """The page of the result in the folder `kept`. about: the docstring of its recipe, without indentation."""
    plan, machine = read_plan(*find_run(str(kept))), json.loads((kept / KEPT).read_text(encoding="utf-8"))
    rows = ["| claim | published | here | agrees? |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {row.claim} | {row.published.replace('(results/', '(../')} | {row.here} | {row.agrees} |"
        for row in rows_of(kept)
    ]
    parts = [f"# {kept.name}", plan.claim, *(f"Note: {note}." for note in machine.get("notes", ())), "\n".join(rows)]
    parts.append(_HOW_TO_READ)
    parts += [sentence_of(kept, "../..").strip()]
    if figures(kept):
        parts.append(_PICTURE.format(**{theme: FIGURE.format(theme) for theme in COLOURS}).strip())
    parts += [_FILES, "## What was run", about.strip(), "## What it took", _table(machine)]
    return "\n\n".join(part for part in parts if part) + "\n"


def figures(kept: Path) -> dict[str, bytes]:
    """The curves beside what was published, by file name; empty for a result without published figures."""
    frames = load(kept)
    drawn = {theme: published_figure(frames, theme) for theme in COLOURS}
    return {FIGURE.format(theme): to_svg(figure) for theme, figure in drawn.items() if figure is not None}


def _table(machine: dict[str, Any]) -> str:
    gpus = machine["gpus"]
    if machine["seconds"] is None:
        time = "not known"
    else:
        where = f"{gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "CPU cores"
        time = f"{duration(machine['seconds'])} on {where}"
        time += f": {60 * machine['gpu_hours']:.1f} GPU-minutes" if gpus else ""
    versions = (f"{name} {', '.join(found)}" for name, found in machine["versions"].items() if found)
    diverged = f", {machine['trials_diverged']:,} diverged" if machine["trials_diverged"] else ""
    rows = {
        "trials": f"{machine['trials_done']:,} of {machine['trials']:,} done{diverged}",
        "epochs asked for, each trial alone": f"{machine['epochs_asked_for']:,}",
        "epochs trained": f"{machine['epochs_trained']:,}",
        "time on the wall": time,
        "devices": "; ".join(machine["devices"]),
        "versions": ", ".join(versions),
        "commands": "; ".join(f"`{command}`" for command in machine["commands"]),
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])
