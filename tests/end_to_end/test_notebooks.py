"""The notebooks run from top to bottom and say what they should; the code of the callback's page runs."""

from __future__ import annotations

import json
import re
import shutil
import sys
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from PIL import Image, ImageColor

import analysis
from analysis.figures.gallery import Material, drawn
from analysis.figures.style import THEMES
from tests.support.command import ROOT

NOTEBOOK, PAGE = ROOT / "notebooks" / "lottery_tickets.ipynb", ROOT / "docs" / "callback.md"
ANALYSIS, SMALL_RUN = ROOT / "notebooks" / "sweep_analysis.ipynb", ROOT / "tests" / "data" / "digits_small"
SECONDS = 300  # for one cell, on a busy machine; the whole takes a tenth of it
TUTORIAL = (
    "Pruning of weight until a sparsity of 50%",
    "Saving Weights at epoch 0",
    "Saving Weights at epoch 1",
    "Resetting Weights to their epoch 0 values",
    "Resetting Weights to their epoch 1 values",
    "Sparsity at the end of epoch 5: 16.67%",
    "Final Sparsity: 50.00%",
    "Sparsity Report:",
)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a kernel that is this interpreter; nothing is read from or written to the user's own folders."""
    folder = tmp_path / "jupyter" / "kernels" / "lottery"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "tests", "language": "python"}))
    for variable in ("JUPYTER_PATH", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    return "lottery"


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
def test_the_notebook_runs_and_prints_the_tutorials_lines(tmp_path: Path, kernel: str) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name=kernel, resources=place).execute()
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    lines = printed.splitlines()
    assert [line for line in TUTORIAL if line not in lines] == []
    assert lines.count("Final Sparsity: 50.00%") == 3
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert sum(line.startswith("TrainedLevel") for line in lines) == 4
    by_id = {cell.id: cell.outputs for cell in cells}
    [view] = [output.data for output in by_id["sweep"] if output.output_type == "display_data"]
    assert "15 of 15 trials done" in view["text/plain"] and "15 trials: 15 done" in lines
    assert not any("\x1b" in text for text in (printed, view["text/plain"], view["text/html"])), "of a terminal"
    assert [output for output in by_id["sweep"] if output.get("name") == "stderr"] == []
    assert by_id["sweep-verdicts"][0].data["text/html"].count("matches") == 2


def test_the_analysis_runs_on_tables_alone(tmp_path: Path, kernel: str) -> None:
    shutil.copytree(SMALL_RUN, tmp_path / "runs" / "digits")  # where the notebook looks, and no trials beside it
    notebook = nbformat.read(ANALYSIS, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name=kernel, resources=place).execute()
    frames = analysis.load(SMALL_RUN)
    outputs = {cell.id: cell.outputs for cell in code_cells(notebook)}
    figure = Image.open(BytesIO(b64decode(outputs["accuracy"][0]["data"]["image/png"]))).convert("RGB")
    colours = {colour for _, colour in figure.getcolors(figure.width * figure.height)}
    assert ImageColor.getrgb(THEMES["light"].series[0]) in colours, "the curve of the only ladder"
    assert analysis.answer(frames.verdicts) in outputs["headline"][0].text
    assert "image/png" in outputs["cost-figure"][-1]["data"]
    titles = [drawing.title for name, drawing, _ in drawn(Material(frames=frames), "light") if name != "accuracy"]
    shown = outputs["figures"]
    assert sum("image/png" in output["data"] for output in shown) == len(titles) == 3
    texts = [output["data"]["text/markdown"] for output in shown if "text/markdown" in output["data"]]
    assert [text.startswith(f"**{title}.**") for text, title in zip(texts, titles, strict=True)] == [True] * 3
    assert not any("function" in text for text in texts)
    rows = {name: outputs[name][-1]["data"]["text/html"].count("<tr") for name in ("verdicts", "layers", "overlap")}
    tested = int((frames.verdicts["n_pairs"] > 0).sum())
    assert rows == {"verdicts": tested + 1, "layers": 6 + 2, "overlap": 3 * 4 + 2}  # headings are one row or two


def test_the_cost_of_one_is_that_of_the_dense_network_of_one_level() -> None:
    """Not of the cheapest dense one, which is the narrow baseline."""
    (cell,) = [cell for cell in code_cells(nbformat.read(ANALYSIS, as_version=4)) if cell.id == "cost"]
    frames = analysis.load(SMALL_RUN)
    dense = frames.trials.query("role == 'dense'")
    narrow = dense.assign(role="baseline", width_pct=50.0, group="narrow", flops_sparse=dense["flops_sparse"] / 10)
    names: dict[str, Any] = {"frames": frames, "done": pd.concat([frames.trials, narrow], ignore_index=True)}
    exec(cell.source, names)
    cost = names["cost"]["times_dense"]
    assert cost.loc["dense"].tolist() == [1.0] and cost.loc["small dense"].tolist() == pytest.approx([0.1])
    assert set(cost.index.unique("what")) == {"dense", "tickets", "random mask", "small dense"}


def test_the_code_of_the_callbacks_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(blocks) >= 10 and names["report"].n == 287
