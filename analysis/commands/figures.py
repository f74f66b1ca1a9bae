"""`python -m analysis figures RUN`: write the figures of a run as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from analysis.tables.parquet import load
from analysis.tables.run_plan import KEPT, find_run
from analysis.text import console, print_line
from lth_trainable.errors import OK, UserError
from lth_trainable.options import parsed
from lth_trainable.safe_text import one_line

Format = Literal["pdf", "svg", "png"]
Theme = Literal["light", "dark"]


ONCE = (
    "note: kept results have the epochs that trials share only once, so curves of training may begin late; those of "
    "the report are whole, and so are those of the unpacked archive"
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write the figures of a run as files for a paper: accuracy, training, early stop, layers, overlap, and, if the
    run has them, controls, barriers and the Pareto front of a search.

    They are drawn from the tables of the last gather. The same tables give the same bytes.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, such as runs/digits, or its URI."""
    format: Annotated[Format, tyro.conf.arg(metavar="pdf|svg|png")] = "pdf"
    """pdf and svg: vector graphics with a transparent background; png: 200 dpi, with the background of the theme."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for the files, created if needed; files are overwritten. Default: NAME-figures in the working folder."""
    theme: Annotated[Theme, tyro.conf.arg(metavar="light|dark")] = "light"
    """Colours for a white page or a dark slide."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead: the file of each figure, by name."""


def main(arguments: Sequence[str]) -> int:
    """Write the figures and print their paths; returns the exit code. Raises `UserError` for bad input."""
    options = parsed(Options, prog="python -m analysis figures", args=arguments)
    written = write_figures(options.run, options.out, options.format, options.theme)
    if options.json:
        print(json.dumps({name: str(path) for name, path in written.items()}))
    else:
        print("\n".join(map(one_line, written.values())))
    store, run = find_run(options.run)
    if "training" in written and store.exists(f"{run}/{KEPT}"):
        print_line(console(stderr=True), ONCE, style="yellow")
    return OK


def write_figures(run: str, out: Path | None = None, kind: Format = "pdf", theme: Theme = "light") -> dict[str, Path]:
    """Write every figure that the run has data for; returns their files by name, in the order of the report.

    Raises `UserError` if there is no run, if it was not gathered yet, or if a file cannot be written.
    """
    from analysis.figures.gallery import Material, drawn, read_suggestions  # matplotlib takes a second to import
    from analysis.figures.style import WRITERS

    store, name = find_run(run)
    material = Material(frames=load(run), suggestions=read_suggestions(store, name))
    folder = Path(f"{name}-figures") if out is None else out
    written = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure_name, _, figure in drawn(material, theme):
            written[figure_name] = folder / f"{figure_name}.{kind}"
            written[figure_name].write_bytes(WRITERS[kind](figure))
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror}); choose another folder") from error
    return written
