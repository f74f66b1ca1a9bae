"""The page of a kept result: what it says of a run that is held against published figures."""

from __future__ import annotations

from pathlib import Path

import pytest

import analysis
from analysis.export.results import Time, keep
from analysis.export.results_page import figures, page
from tests.support.published import lenet_run
from tests.support.svg import texts


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    analysis.gather(lenet_run(folder))
    return keep(str(folder / "run"), folder / "kept", Time(seconds=90.0), notes=("the images are copies",)).path


def test_the_page_says_what_was_found_run_and_taken(kept: Path) -> None:
    text = page(kept, "Tickets match.\n\nDiffers from the paper: pixels are normalised.")
    parts = text.split("\n\n")
    assert parts[0] == "# run" and parts[2] == "Note: the images are copies."
    source = "([arXiv 1803.03635](../published/1803.03635.csv))"
    assert f"| tickets are more than 0.3 pp above dense at 13.5 % of the weights | > 0.3 pp {source} | 0.4" in text
    assert "*Undecided*: neither is shown" in text
    assert "tickets match dense at" in text, "its own question, after the published figures"
    assert "## What was run\n\nTickets match.\n\nDiffers from the paper: pixels are normalised.\n\n" in text
    assert "| time on the wall | 1:30 on CPU cores |" in text and "| epochs trained |" in text


def test_the_curves_are_beside_the_published_figures(kept: Path) -> None:
    drawn = figures(kept)
    assert list(drawn) == ["published-light.svg", "published-dark.svg"]
    assert all(f'"{name}"' in page(kept, "") for name in drawn)
    assert "accuracy, against dense" in texts(drawn["published-light.svg"])
