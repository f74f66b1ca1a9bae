"""Run the notebooks and keep their outputs in the files: `.venv/bin/python tools/notebooks.py`, after `make test`.

Each runs in an empty folder, so that paths in its outputs are relative. The second needs a run of the default sweep,
which is trained first. Outputs keep what a reader sees; what only says when and where they were made is left out.
"""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SECONDS_PER_CELL = 1800
# What fastai writes once per progress bar, and leaves empty when the bar is done.
_STYLE = re.compile(r"\s*<style>.*?</style>\s*", re.DOTALL)


def main() -> None:
    """Run the notebooks one after the other, each in a temporary folder of its own."""
    os.environ["PYTHONWARNINGS"] = "ignore"  # of libraries about each other, with paths of this machine
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(NOTEBOOKS.parent), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder:
        execute(NOTEBOOKS / "lottery_tickets.ipynb", folder)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "sweeps.lth_grid", "digits"], cwd=folder, check=True)
        execute(NOTEBOOKS / "sweep_analysis.ipynb", folder)


def execute(path: Path, folder: str) -> None:
    """Run a notebook with `folder` as its working folder, and write it back with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    started = time.monotonic()
    NotebookClient(notebook, timeout=SECONDS_PER_CELL, resources={"metadata": {"path": folder}}).execute()
    seconds = time.monotonic() - started
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = joined(tidy(output) for output in cell.outputs if is_seen(output))
    nbformat.write(notebook, path)
    print(f"{path.name}: {seconds:.0f} s, {path.stat().st_size / 1e3:.0f} kB")


def is_seen(output: Any) -> bool:
    """Whether a reader sees anything of the output: fastai's bars leave style sheets and empty ones behind."""
    html = output.get("data", {}).get("text/html")
    return html is None or bool(_STYLE.sub("", html).strip())


def tidy(output: Any) -> Any:
    """The output without style sheets, with pictures of few colours, and without what only repeats these as text."""
    data = output.get("data", {})
    if "text/html" in data:
        data["text/html"] = _STYLE.sub("", data["text/html"])
        data.pop("text/markdown", None)
    if "image/png" in data:
        data["image/png"], data["text/plain"] = of_few_colours(data["image/png"]), "a figure"
    return output


def of_few_colours(picture: str) -> str:
    """A PNG (base64) with a palette of 128 colours, a third of the size. Figures have fewer, but for smooth edges."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small = io.BytesIO()
    image.save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def joined(outputs: Iterable[Any]) -> list[Any]:
    """The outputs, with pieces of one stream that follow each other as one."""
    kept: list[Any] = []
    for output in outputs:
        if kept and "text" in output and output.get("name") == kept[-1].get("name"):
            kept[-1]["text"] += output["text"]
        else:
            kept.append(output)
    return kept


if __name__ == "__main__":
    main()
