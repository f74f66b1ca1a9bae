"""The rows of the report's tables as text: verdicts, other claims, trials. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.labels import claim_label, short_labels
from analysis.report.lines import (
    NOTHING,
    Line,
    corrected,
    dense_of,
    differences,
    every_row,
    folded,
    is_corrected,
    is_folded,
    ranged,
    reason,
    seeds,
    sparsities,
    tickets,
    verdict,
)
from analysis.tables.schema import Row
from analysis.text import percent, signed
from analysis.verdicts.rows import LADDER_CLAIM

_UNITS = {"percentage points": "pp"}
Cells = dict[str, Any]  # of one line of a table: name of the column -> text


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A table of verdicts. shown: its lines, where several undecided rows may share one. every: a line for each row,
    if they differ; else empty. corrected: whether the bounds that decide differ from the intervals."""

    shown: list[Cells]
    every: list[Cells]
    corrected: bool = False


def verdict_lines(rows: Sequence[Row]) -> Lines:
    """The table of these headlines."""
    labels = short_labels([row["ladder"] for row in rows])
    return _lines(rows, lambda line: _verdict_cells(line, labels))


def claim_lines(rows: Sequence[Row]) -> Lines:
    """The table of other claims, grouped by claim."""
    labels = short_labels([row["ladder"] for row in rows])
    by_claim = {label: [row for row in rows if claim_label(row) == label] for label in map(claim_label, rows)}
    return _lines([row for group in by_claim.values() for row in group], lambda line: _claim_cells(line, labels))


def _lines(rows: Sequence[Row], cells: Callable[[Line], Cells]) -> Lines:
    lines = folded(rows)
    return Lines(
        shown=_without_repeats([cells(line) for line in lines]),
        every=_without_repeats([cells(line) for line in every_row(rows)]) if any(map(is_folded, lines)) else [],
        corrected=is_corrected(rows),
    )


def _without_repeats(lines: list[Cells]) -> list[Cells]:
    """The lines, each knowing whether its claim is that of the line before (`again`), and whether all that names its
    tickets is (`same`)."""
    found = []
    for line, last in zip(lines, [{}, *lines], strict=False):
        again = line.get("claim") == last.get("claim")
        same = again and all(line.get(name) == last.get(name) for name in ("tickets", "against"))
        found.append(line | {"again": again, "same": same})
    return found


def _verdict_cells(line: Line, labels: Mapping[str, str]) -> Cells:
    return _shared_cells(line, labels) | {
        "against": dense_of(line), "left": ranged(line, "sparsity_pct", _left),
        "ticket": ranged(line, "mean_ticket", accuracy), "dense": ranged(line, "mean_baseline", accuracy),
        "difference": differences(line), "corrected": corrected(line), "group": line[0]["group"],
    }  # fmt: skip


def _claim_cells(line: Line, labels: Mapping[str, str]) -> Cells:
    whole_ladder = line[0]["claim"] == LADDER_CLAIM
    return _shared_cells(line, labels) | {
        "claim": claim_label(line[0]), "sparsity": "" if whole_ladder else sparsities(line),
        "effect": _effect(line), "p": NOTHING if is_folded(line) else text_of(_p_of(line[0]), _p),
    }  # fmt: skip


def _shared_cells(line: Line, labels: Mapping[str, str]) -> Cells:
    """The cells that both tables have. kind: the first word of the verdict, which colours it."""
    return {
        "tickets": _tied(tickets(line, labels)), "sparsity": sparsities(line), "seeds": seeds(line),
        "g": ranged(line, "hedges_g", signed), "verdict": verdict(line), "kind": line[0]["verdict"].split()[0],
        "why": _tied(reason(line)), "folded": is_folded(line),
    }  # fmt: skip


def _effect(line: Line) -> str:
    first = line[0]
    if first["claim"] == LADDER_CLAIM:
        return ranged(line, "effect", lambda target: f"{target:g} %")
    units = {row["unit"] for row in line if row["effect"] is not None}
    if len(units) != 1:  # rows of a claim with several parts have the unit of the part that decided
        return NOTHING
    return f"{differences(line)} {' '.join(_UNITS.get(unit, unit) for unit in units)}"


def _left(sparsity_pct: float) -> str:
    return percent(100 - sparsity_pct)


def _p_of(row: Row) -> float | None:
    """The p value that decided: that of the reverse claim if the claim is refuted.

    None for one that would be printed as 1.000, which corrected p values end at: it says nothing.
    """
    p: float | None = row["p_against_decisive" if row["verdict"] == "no" else "p_decisive"]
    return None if p is None or p >= 0.9995 else p


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _tied(text: str) -> str:
    """The text with non-breaking spaces in "p = 0.02", "64 %" and "epoch 1"."""
    text = re.sub(r"p ([=<]) ", "p\u00a0\\1\u00a0", text)
    text = re.sub(r"(?<=\d) and (?=\d)", "\u00a0and\u00a0", text)
    return re.sub(r"(?<=\d) (?=%)|(?<=\bepoch) (?=\d)", "\u00a0", text)


# -- trials


def trial_cells(row: Row) -> Cells:
    """A trial as text."""
    return {
        "trial": row["trial"], "status": row["status"], "reason": row["reason"] or "",
        "sparsity": text_of(row["sparsity_pct"], lambda value: f"{value:.2f}"),
        "valid": text_of(row["valid_accuracy"], accuracy), "test": text_of(row["test_accuracy"], accuracy),
        "epochs": text_of(row["epochs_trained"], str),
        "seconds": text_of(row["train_seconds"], lambda value: f"{value:.1f}"),
    }  # fmt: skip


def accuracy(value: float) -> str:
    """An accuracy in percent: 0.9602 -> "96.02"."""
    return f"{100 * value:.2f}"


def text_of(value: Any, write: Callable[[Any], str]) -> str:
    """The value in words; "–" if there is none."""
    return NOTHING if value is None else write(value)
