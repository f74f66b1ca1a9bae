"""The live view in a notebook: one output of the cell that is replaced, without control codes for a terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import RenderableType

from analysis.text import PLAIN_WIDTH, PlainConsole

STYLE = "line-height: normal; font-family: Menlo, 'DejaVu Sans Mono', consolas, 'Courier New', monospace"
PAGE = f'<pre style="white-space: pre; overflow-x: auto; {STYLE}">{{code}}</pre>'


class Output:
    """An output of the cell that runs now. `show` replaces what it shows, in any thread."""

    def __init__(self) -> None:
        from IPython.display import display

        self._handle: Any = display(Picture(""), display_id=True)

    def show(self, what: RenderableType) -> None:
        self._handle.update(Picture(what))


class Picture:
    """Something that Rich can print, as HTML with its colours and as plain text."""

    def __init__(self, what: RenderableType) -> None:
        console = PlainConsole(
            file=io.StringIO(), width=PLAIN_WIDTH, record=True, color_system=None, force_jupyter=False,
        )  # fmt: skip
        console.print(what)
        self.text = console.export_text(clear=False).strip("\n")
        self.html = console.export_html(inline_styles=True, code_format=PAGE)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": self.text, "text/html": self.html}
