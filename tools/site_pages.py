"""What the documentation site has besides docs/: notebooks, change log, and links that lead to files of the repository.

A hook of MkDocs, named in mkdocs.yml. Notebooks become pages as they are stored, with their outputs; nothing is run.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("notebooks/lottery_tickets.ipynb", "notebooks/sweep_analysis.ipynb")
# Pages outside docs/, and their places in the site.
PLACES = {name: name.removesuffix(".ipynb") + ".md" for name in NOTEBOOKS}
PLACES |= {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
_LINK = re.compile(r"(\]\()(?!https?:|#)([^)#\s]+)")
_TERMINAL = re.compile(r"\x1b\[[0-9;]*m")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for source, place in PLACES.items():
        text = (ROOT / source).read_text()
        content = page_of(json.loads(text)) if source in NOTEBOOKS else with_links(text, source, place)
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let the links of a page of docs/ to those from outside lead to their place in the site."""
    place = page.file.src_uri
    return markdown if place in PLACES.values() else with_links(markdown, f"docs/{place}", place)


def with_links(text: str, source: str, place: str) -> str:
    """A file's text with links as they must be from its place in the site. One to a file without a place will fail."""
    return _LINK.sub(lambda link: link[1] + _in_site(link[2], source, place), text)


def _in_site(link: str, source: str, place: str) -> str:
    target = Path(os.path.normpath((ROOT / source).parent / link)).relative_to(ROOT).as_posix()
    if target not in PLACES and not target.startswith("docs/"):
        return link
    return Path(os.path.relpath(PLACES.get(target, target.removeprefix("docs/")), Path(place).parent)).as_posix()


# -- notebooks ---------------------------------------------------------------------------------------------------------


def page_of(notebook: dict[str, Any]) -> str:
    """A notebook as Markdown."""
    return "\n\n".join(part for cell in notebook["cells"] for part in cell_parts(cell))


def cell_parts(cell: dict[str, Any]) -> Iterable[str]:
    """The parts of a cell: its text, or its code followed by its outputs."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        yield f'<div class="output">\n{output_html(output)}\n</div>'


def output_html(output: dict[str, Any]) -> str:
    """An output as HTML: its picture, its table, its Markdown, or its text."""
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="a figure" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    if "text/html" in data:
        return re.sub(r"\n\s*\n", "\n", "".join(data["text/html"]))
    if "text/markdown" in data:
        return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape("".join(data["text/markdown"])))
    text = "".join(output.get("text") or data.get("text/plain", ""))
    return "<pre>" + html.escape(_TERMINAL.sub("", text).rstrip()).replace("\n", "&#10;") + "</pre>"
