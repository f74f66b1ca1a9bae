"""The README's table of results: what it says of a run with published figures, and of one without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from analysis.export import results_table
from analysis.export.results_table import replaced, rows_of
from analysis.tables import schema
from analysis.tables.parquet import Frames

MACHINE = {"gpus": 1, "gpu_hours": 0.125, "seconds": 450.0}


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
    held = [published(ladder=ladder) for ladder in ladders]
    two, six = rows(monkeypatch, tmp_path, *held, published(claim="other", result="not in this run"))
    assert (two.claim, six.claim) == ("masks have 41 % (Conv-2)", "masks have 41 % (Conv-6)")
    assert (two.recipe, two.published) == ("[cifar10_supermask](results/cifar10_supermask)", "41 %")
    assert two.here == "38.5 %: −2.50 [−4.00, −1.00] pp, n = 5"
    assert (two.agrees, two.gpu_minutes) == ("undecided", "7.5")


def test_one_network_needs_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (row,) = rows(monkeypatch, tmp_path, published(ladder="a-b", relation="more_than"), gpus=0, gpu_hours=0.0)
    assert (row.claim, row.published, row.gpu_minutes) == ("masks have 41 %", "> 41 %", "0 (7:30 on CPU cores)")


def test_only_what_is_between_the_markers_is_replaced() -> None:
    assert replaced("a\n<s>\nold\n<e>\nb\n", "<s>", "<e>", ["new\n"]) == "a\n<s>\nnew\n<e>\nb\n"
    with pytest.raises(ValueError, match="found no <e>"):
        replaced("a <s>", "<s>", "<e>", [])
