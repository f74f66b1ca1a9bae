"""Write what the README says of results/ anew, and its figure: `.venv/bin/python tools/readme_results.py`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import analysis  # noqa: E402
from analysis.export.results_table import markdown, replaced, sentence  # noqa: E402
from analysis.figures.differences import differences_figure  # noqa: E402
from analysis.figures.style import COLOURS, to_svg  # noqa: E402

START, END = "<!-- made from results/ by tools/readme_results.py -->", "<!-- end of what it makes -->"
FIGURE = "docs/images/digits-{}.svg"  # of the result digits


def readme() -> str:
    """The README with the table of the results that are there, and below it the sentence on the tutorial's claim."""
    text, said = (ROOT / "README.md").read_text(encoding="utf-8"), sentence(ROOT / "results")
    return replaced(text, START, END, [markdown(ROOT / "results"), *(["\n", said] if said else [])])


def figures() -> dict[str, bytes]:
    """The README's figure in each theme, by its path in the project."""
    frames = analysis.load(ROOT / "results" / "digits")
    drawn = {theme: differences_figure(frames, theme) for theme in COLOURS}
    return {FIGURE.format(theme): to_svg(figure) for theme, figure in drawn.items() if figure is not None}


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
    for path, content in figures().items():
        (ROOT / path).write_bytes(content)
