"""The README's table of results: what it says of a run with published figures, and of one without."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from analysis.export import results_table
from analysis.export.results_table import replaced, rows_of
from analysis.tables import schema
from analysis.tables.parquet import Frames

SOURCE = "[arXiv 1905.01067](results/published/1905.01067.csv)"
MACHINE = {"gpus": 1, "gpu_hours": 0.125, "seconds": 450.0, "notes": ["the images are other ones", "6 of 36 seeds"]}


def published(**changes: Any) -> dict[str, Any]:
    row = dict.fromkeys(schema.TABLES["published"].names)
    return {
        **row, "run": "r", "claim": "signed", "sentence": "masks have 41 %", "relation": "equals", "published": 41.0,
        "unit": "%", "here": 38.5, "difference": -2.5, "ci_low": -4.0, "ci_high": -1.0, "margin": 3.0,
        "margin_unit": "pp", "n": 5, "result": "undecided", "why": "", "arm": "signed_constants",
        "quantity": "supermask_accuracy", "paper": "1905.01067", "place": "abstract", **changes,
    }  # fmt: skip


def rows(monkeypatch: pytest.MonkeyPatch, folder: Path, *held: dict[str, Any], **machine: Any) -> list[Any]:
    tables: dict[str, pa.Table] = {name: schema.table(name, []) for name in schema.TABLES}
    tables["published"] = schema.table("published", held)
    monkeypatch.setattr(results_table, "load", lambda path: Frames(tables=tables))
    kept = folder / "cifar10_supermask"
    kept.mkdir()
    (kept / "machine.json").write_text(json.dumps({**MACHINE, **machine}))
    return list(rows_of(kept))


def test_a_published_figure_has_a_row_for_each_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ladders = [f"cifar10-{model}-one_shot-large_final_same_sign" for model in ("conv_2", "conv_6")]
    held = [published(ladder=ladder) for ladder in reversed(ladders)]
    two, six = rows(monkeypatch, tmp_path, *held, published(claim="other", result="not in this run"))
    assert (two.claim, six.claim) == ("masks have 41 % (Conv-2)", "masks have 41 % (Conv-6)")
    assert (two.recipe, two.published) == (
        "[cifar10_supermask](results/cifar10_supermask)",
        f"41 % ({SOURCE}, margin 3 pp)",
    )
    assert two.here == "38.50 %: −2.50 [−4.00, −1.00] pp, n = 5"
    assert (two.agrees, two.gpu_minutes) == ("undecided", "7.5")


def test_what_is_not_known_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unknown = {"here": None, "difference": None, "ci_low": None, "ci_high": None}
    (row,) = rows(monkeypatch, tmp_path, published(ladder="a-b", **unknown))
    assert row.here == "not known, n = 5"


def test_one_network_needs_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (row,) = rows(
        monkeypatch, tmp_path, published(ladder="a-b", relation="more_than", margin=0.0), gpus=0, gpu_hours=0.0
    )
    assert (row.claim, row.published) == ("masks have 41 %", f"> 41 % ({SOURCE})"), "a bound has no margin"
    assert row.gpu_minutes == "0 (7:30 on CPU cores)"


@pytest.mark.parametrize(("difference", "words"), [(10.5, "disagrees (higher)"), (-6.5, "disagrees (lower)")])
def test_what_disagrees_says_on_which_side(
    difference: float, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (row,) = rows(monkeypatch, tmp_path, published(ladder="a-b", result="disagrees", difference=difference))
    assert row.agrees == words


def test_notes_are_listed_by_result(tmp_path: Path) -> None:
    for name, said in {"b": ["copies", "few seeds"], "a": [], "c": ["other images"]}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "machine.json").write_text(json.dumps({"notes": said}))
    assert results_table.notes(tmp_path) == "* [b](results/b): copies; few seeds.\n* [c](results/c): other images.\n"


def verdict(claim: str, verdict: str, **changes: Any) -> dict[str, Any]:
    """A row of the ticket of 50 % against the dense network of 20 epochs."""
    row = dict.fromkeys(schema.TABLES["verdicts"].names)
    return {
        **row, "run": "r", "rule_version": 1, "group": "t-s50", "ladder": "t", "role": "ticket", "primary": True,
        "baseline": "dense-e20", "kind": "dense", "claim": claim, "verdict": verdict, "epochs": 20, "margin_pp": 1.0,
        "target_sparsity_pct": 50.0, "sparsity_pct": 50.0, "effect": -2.0, "ci_low": -3.0, "ci_high": -1.0,
        "n_pairs": 36, "n_unpaired": 0, "n_unfinished": 0, "n_diverged": 0, "headline": "undecided", **changes,
    }  # fmt: skip


def said(monkeypatch: pytest.MonkeyPatch, folder: Path, result: str, matches: str, beats: str, **figures: Any) -> str:
    """The sentence for a result of the claim, and verdicts against the dense network of 20 epochs."""
    held = published(
        claim=results_table.TUTORIAL, quantity="accuracy_difference", arm="ticket", published=0.0, unit="pp",
        relation="more_than", weights_left_pct=50.0, group="t-s50", ladder="t", n=36, result=result,
        **({"here": 3.1, "ci_low": 2.0, "ci_high": 4.2} | figures),
    )  # fmt: skip
    tables: dict[str, pa.Table] = {name: schema.table(name, []) for name in schema.TABLES}
    tables["published"] = schema.table("published", [held])
    tables["verdicts"] = schema.table("verdicts", [verdict("matches", matches), verdict("beats", beats)])
    monkeypatch.setattr(results_table, "load", lambda path: Frames(tables=tables))
    kept = folder / "pets_tutorial"
    kept.mkdir(exist_ok=True)
    (kept / "machine.json").write_text(json.dumps(MACHINE))
    return results_table.sentence(folder)


def test_the_tutorials_claim_survives_or_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    survives = said(monkeypatch, tmp_path, "agrees", matches="no", beats="no")
    assert survives == (
        "The claim of [fasterai's tutorial](docs/from_fasterai.md) survives: its ticket of 50 % is more accurate than "
        "the dense network of 5 epochs ([+3.10 pp [+2.00, +4.20], n = 36](results/pets_tutorial)). Against the dense "
        "network of 20 epochs, as many as the ticket took to find and train, it is less accurate, by more than 1 pp "
        "(−2.00 pp [−3.00, −1.00], n = 36).\n"
    )
    assert "(+3.10 pp [+2.00, +4.20], n = 36)." in results_table.sentence_of(tmp_path / "pets_tutorial", "../..")
    fails = said(monkeypatch, tmp_path, "disagrees", matches="no", beats="no", here=-0.4, ci_low=-0.7, ci_high=-0.1)
    assert "does not survive: its ticket of 50 % is not more accurate than the dense network of 5 epochs" in fails
    assert "[−0.40 pp [−0.70, −0.10], n = 36]" in fails
    undecided = said(monkeypatch, tmp_path, "undecided", matches="undecided", beats="undecided")
    assert "is neither confirmed nor refuted: its ticket of 50 % is not shown to be more accurate than" in undecided
    assert "it is undecided whether the ticket is at most 1 pp less accurate" in undecided


def test_an_interval_within_the_margin_that_decides_nothing_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    within = {"effect": -0.1, "ci_low": -0.9, "ci_high": 0.7, "bound": -1.0, "decisive_low": -1.25}
    monkeypatch.setattr(f"{__name__}.verdict", functools.partial(verdict, **within))
    sentence = said(monkeypatch, tmp_path, "agrees", matches="undecided", beats="undecided")
    reason = "corrected for several tests the lower bound is −1.25 pp"
    assert sentence.endswith(f"(−0.10 pp [−0.90, +0.70], n = 36; {reason}).\n")
    row = list(rows_of(tmp_path / "pets_tutorial"))[-1]
    assert (row.here, row.agrees) == ("−0.10 pp [−0.90, +0.70], n = 36", f"undecided; {reason}")


def test_weights_left_are_those_that_were_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said(monkeypatch, tmp_path, "agrees", matches="yes", beats="undecided")
    frames = results_table.load("")
    row = verdict("matches", "yes", target_sparsity_pct=97.19, sparsity_pct=97.12)
    beats = verdict("beats", "undecided", target_sparsity_pct=97.19, sparsity_pct=97.12)
    tables = {**frames.tables, "verdicts": schema.table("verdicts", [row, beats])}
    monkeypatch.setattr(results_table, "load", lambda path: Frames(tables=tables))
    claims = [each.claim for each in rows_of(tmp_path / "pets_tutorial")]
    assert claims[-1] == "tickets match dense at 2.9 % of the weights, margin 1 pp"


@pytest.mark.parametrize(
    ("matches", "beats", "words"),
    [
        ("yes", "yes", "it is more accurate too"),
        ("yes", "undecided", "it is at most 1 pp less accurate ("),
        ("yes", "no", "it is less accurate, by at most 1 pp"),
        ("no", "no", "it is less accurate, by more than 1 pp"),
    ],
)
def test_the_sentence_says_what_an_equal_budget_gives(
    matches: str, beats: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert words in said(monkeypatch, tmp_path, "agrees", matches, beats)


def test_without_that_result_nothing_is_said(tmp_path: Path) -> None:
    assert results_table.sentence(tmp_path) == ""


def test_only_what_is_between_the_markers_is_replaced() -> None:
    assert replaced("a\n<s>\nold\n<e>\nb\n", "<s>", "<e>", ["new\n"]) == "a\n<s>\nnew\n<e>\nb\n"
    with pytest.raises(ValueError, match="found no <e>"):
        replaced("a <s>", "<s>", "<e>", [])
