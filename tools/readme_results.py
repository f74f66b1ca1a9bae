"""Write what the README says of results/ anew, its figure, and the page of each result with its figure.

.venv/bin/python tools/readme_results.py
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import analysis  # noqa: E402
from analysis.export import results_page  # noqa: E402
from analysis.export.results_table import markdown, notes, replaced, results, sentence  # noqa: E402
from analysis.figures.differences import differences_figure  # noqa: E402
from analysis.figures.style import COLOURS, to_svg  # noqa: E402
from analysis.tables.run_plan import find_run, read_plan  # noqa: E402
from sweeps.experiments.recipes import RECIPES  # noqa: E402

START, END = "<!-- made from results/ by tools/readme_results.py -->", "<!-- end of what it makes -->"
FIGURE = "docs/images/digits-{}.svg"  # of the result digits


def readme() -> str:
    """The README with the table of the results that are there, and below it notes, and the tutorial's claim."""
    text, folder = (ROOT / "README.md").read_text(encoding="utf-8"), ROOT / "results"
    below = [part for part in (notes(folder), sentence(folder)) if part]
    return replaced(text, START, END, [markdown(folder), *(f"\n{part}" for part in below)])


def figures() -> dict[str, bytes]:
    """The README's figure in each theme, by its path in the project."""
    frames = analysis.load(ROOT / "results" / "digits")
    drawn = {theme: differences_figure(frames, theme) for theme in COLOURS}
    return {FIGURE.format(theme): to_svg(figure) for theme, figure in drawn.items() if figure is not None}


def pages() -> dict[str, str]:
    """The page of each result, by its path in the project."""
    return {
        f"results/{kept.name}/{results_page.PAGE}": results_page.page(kept, _about(kept))
        for kept in results(ROOT / "results")
    }


def _about(kept: Path) -> str:
    """The docstring of the recipe, as paragraphs; empty for a result of another recipe."""
    recipe = RECIPES.get(read_plan(*find_run(str(kept))).recipe)
    return inspect.cleandoc(recipe.__doc__ or "") if recipe is not None else ""


def page_figures() -> dict[str, bytes]:
    """The figures of these pages, by their paths in the project."""
    return {
        f"results/{kept.name}/{name}": content
        for kept in results(ROOT / "results")
        for name, content in results_page.figures(kept).items()
    }


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
    for path, text in pages().items():
        (ROOT / path).write_text(text, encoding="utf-8")
    for path, content in {**figures(), **page_figures()}.items():
        (ROOT / path).write_bytes(content)
