"""The kept results: small, whole, without places of a machine; and the README says what they say."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from markupsafe import escape
from rich.console import Console

import analysis
from analysis.export.results_table import results
from analysis.report.lines import folded
from analysis.report.terminal import show
from analysis.tables.run_plan import find_run, read_plan
from analysis.text import PLAIN_WIDTH
from analysis.verdicts.answer import answer_sentence
from sweeps.experiments.expand import expand
from sweeps.experiments.precision import with_precision
from sweeps.experiments.recipes import RECIPES, find_recipe
from tests.support.command import ROOT
from tests.support.pages import text_of
from tests.support.svg import texts

KEPT = results(ROOT / "results")
MOST_BYTES = 15_000_000  # of one result
DIGITS = ROOT / "results" / "digits"
_PLACES = re.compile(r"/(?:tmp|root|home|Users|work|mnt|data)/|file://")
_NUMBER = re.compile(r"-?\d+\.\d+|-?\d+")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_results", ROOT / "tools" / "readme_results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_one_line(text: str) -> str:
    return " ".join(text.split())


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_digits_is_kept() -> None:
    assert DIGITS in KEPT


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name)
def test_a_result_is_small_whole_and_of_its_recipe(kept: Path) -> None:
    files = [path for path in kept.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    frames, machine = analysis.load(kept), json.loads((kept / "machine.json").read_text())
    plan = read_plan(*find_run(kept))
    assert len(plan.trials) == machine["trials"] == len(frames.trials)
    assert machine["trials_done"] + machine["trials_diverged"] == machine["trials"]
    assert (frames.epochs["trial"] == frames.epochs["trained_by"]).sum() == machine["epochs_trained"]
    assert frames.trials["epochs_trained"].sum() <= machine["epochs_trained"] <= machine["epochs_asked_for"]
    if plan.recipe in RECIPES:
        sweep = find_recipe(plan.recipe)
        seeds = tuple(sorted({trial.spec["seed"] for trial in plan.trials}))
        assert set(seeds) <= set(sweep.seeds), "fewer seeds, where the time did not suffice, but of each all trials"
        on_gpu = not all(device.startswith("cpu") for device in machine["devices"])
        planned = expand(with_precision(replace(sweep, seeds=seeds), on_gpus=on_gpu, here=False))
        assert {trial.name for trial in plan.trials} == {trial.name for trial in planned.trials}
        assert (plan.rule.endpoint, plan.rule.margin_pp) == (sweep.endpoint, sweep.margin_pp)
        assert {claim["claim"]: claim["margin"] for claim in plan.published} == dict(sweep.published)


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name)
def test_a_result_names_no_place_of_the_machine(kept: Path) -> None:
    texts = {path.name: path.read_text() for path in (*kept.glob("*.json"), *kept.glob("*.html"))}
    for archive in kept.glob("*.tar.xz"):
        with tarfile.open(archive) as content:
            member = content.extractfile(f"{kept.name}/plan.json")
            assert member is not None
            texts[f"{archive.name}/plan.json"] = member.read().decode()
    for name, text in texts.items():
        assert _PLACES.search(text) is None, name


# -- what the README says ----------------------------------------------------------------------------------------------


def test_the_readmes_table_is_that_of_the_results(tool: ModuleType) -> None:
    assert tool.readme() == text_of("README.md"), "run .venv/bin/python tools/readme_results.py"


def test_each_result_has_its_page_and_its_figure(tool: ModuleType) -> None:
    again = "run .venv/bin/python tools/readme_results.py"
    assert {path: text_of(path) for path in tool.pages()} == tool.pages(), again
    for path, content in tool.page_figures().items():
        committed = (ROOT / path).read_bytes()
        assert texts(committed) == texts(content) and numbers(committed) == pytest.approx(numbers(content), abs=1e-3)


def test_the_report_of_untrained_networks_answers_about_them() -> None:
    for kept in KEPT:
        page, is_about_them = (kept / "report.html").read_text(), kept.name.endswith("_supermask")
        assert ('<ul class="answer untrained">' in page) == is_about_them, kept.name
        assert ("Trained tickets: " in page) == is_about_them, kept.name


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name)
def test_the_kept_report_has_the_answer_of_the_kept_tables(kept: Path) -> None:
    frames, page = analysis.load(kept), (kept / "report.html").read_text()
    assert str(escape(answer_sentence(frames.rows("verdicts")))) in page
    assert all(str(escape(row["sentence"])) in page for row in frames.rows("published"))


def test_a_dense_network_of_fewer_epochs_is_named_by_them(tool: ModuleType) -> None:
    drawn = texts(tool.page_figures()["results/pets_tutorial/published-light.svg"])
    assert {"dense, 5 epochs", "accuracy, against dense, 5 epochs"} <= set(
        drawn
    ) and "dense, rewind epoch 0" not in drawn
    assert "accuracy, against dense, 5 epochs" in text_of("results/pets_tutorial/report.html")


def test_the_readmes_output_is_that_of_the_kept_run() -> None:
    frames, shown = analysis.load(DIGITS), io.StringIO()
    show(Console(file=shown, width=PLAIN_WIDTH, highlight=False), frames, "runs/digits", folded)
    text = text_of("README.md")
    start = text.index("    digits, LeNet-300-100, IMP: test accuracy")
    block = text[start : text.index("How to read it", start)]
    assert in_one_line(block) == in_one_line(shown.getvalue())
    machine = json.loads((DIGITS / "machine.json").read_text())
    asked, trained = machine["epochs_asked_for"], machine["epochs_trained"]
    line = f"{machine['trials']} trials: {machine['trials']} to go, {trained:,} epochs to train; sharing saves "
    assert f"{line}{asked - trained:,} of {asked:,}  ->  runs/digits" in text


def test_the_readmes_figure_has_the_data_of_the_kept_run(tool: ModuleType) -> None:
    for path, content in tool.figures().items():
        committed = (ROOT / path).read_bytes()
        assert texts(committed) == texts(content)
        assert numbers(committed) == pytest.approx(numbers(content), abs=1e-3), path


def numbers(svg: bytes) -> list[float]:
    """The coordinates of all paths and marks of a drawing, in its order."""
    elements = ElementTree.fromstring(svg).iter()
    found = [element.get(name, "") for element in elements for name in ("d", "x", "y", "transform")]
    return [float(number) for text in found for number in _NUMBER.findall(text)]


def test_the_example_by_hand_has_the_images_of_the_kept_run() -> None:
    trials = analysis.load(DIGITS).trials
    tickets = trials[
        (trials["control"] == "none") & (trials["target_sparsity_pct"] == 64) & (trials["rewind_epoch"] == 1)
    ]
    for label, rows in (("dense", trials[trials["control"] == "dense"]), ("ticket", tickets)):
        right = [round(360 * accuracy) for accuracy in rows.sort_values("seed")["test_accuracy"]]
        assert f"| {label} | {' | '.join(map(str, right))} |" in text_of("docs/verdicts.md")
