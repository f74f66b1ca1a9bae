"""The table of the README: what the kept results of the project say, beside what papers have published."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.export.results import KEPT
from analysis.labels import short_labels
from analysis.tables.parquet import Frames, load
from analysis.tables.schema import BEATS, MATCHES, Row
from analysis.text import duration, percent, signed
from analysis.verdicts.headlines import of_tickets

HEADINGS = ("recipe", "claim", "published", "here", "agrees?", "GPU-minutes")
NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One row of the table, as text."""

    recipe: str
    claim: str
    published: str
    here: str
    agrees: str
    gpu_minutes: str


def results(folder: Path) -> list[Path]:
    """The kept results in a folder, by name."""
    return sorted(path.parent for path in folder.glob(f"*/{KEPT}"))


def rows_of(kept: Path) -> Iterator[ResultRow]:
    """The rows of one result: its published claims; without any, how far its tickets match the dense network."""
    frames, machine = load(kept), json.loads((kept / KEPT).read_text(encoding="utf-8"))
    link, minutes = f"[{kept.name}](results/{kept.name})", _minutes(machine)
    held = frames.rows("published") if "published" in frames.tables else []
    for row in held:
        if row["here"] is not None:
            yield ResultRow(
                recipe=link, claim=row["sentence"], published=_number(row["published"], row["unit"]),
                here=_here(row), agrees=row["result"], gpu_minutes=minutes,
            )  # fmt: skip
    if not held:
        for claim, here, verdict in _own_claims(frames):
            yield ResultRow(recipe=link, claim=claim, published=NOTHING, here=here, agrees=verdict, gpu_minutes=minutes)


def markdown(folder: Path) -> str:
    """The table of all kept results in a folder, in Markdown, with a line break at its end."""
    lines = [" | ".join(HEADINGS), " | ".join(["---"] * len(HEADINGS))]
    for kept in results(folder):
        lines += [" | ".join(vars(row).values()) for row in rows_of(kept)]
    return "".join(f"| {line} |\n" for line in lines)


def _own_claims(frames: Frames) -> Iterator[tuple[str, str, str]]:
    """For each ladder the sparsest level that matches dense, else its first level: claim, difference, headline."""
    ladders: dict[str, list[Row]] = defaultdict(list)
    for row in of_tickets(frames.rows("verdicts")):
        ladders[row["ladder"]].append(row)
    labels = short_labels(list(ladders))
    for ladder, rows in ladders.items():
        row = _sparsest(rows)
        left = percent(100 - row["target_sparsity_pct"])
        label = f" ({labels[ladder]})" if len(ladders) > 1 else ""
        claim = f"tickets{label} match dense at {left} % of the weights, margin {row['margin_pp']:g} pp"
        yield claim, _difference(row["effect"], row, "n_pairs"), row["headline"]


def _sparsest(rows: Sequence[Row]) -> Row:
    in_order = sorted(rows, key=lambda row: float(row["target_sparsity_pct"]))
    return [in_order[0], *(row for row in in_order if row["headline"] in (MATCHES, BEATS))][-1]


def _difference(effect: float | None, row: Row, n: str) -> str:
    if effect is None or row["ci_low"] is None or row["ci_high"] is None:
        return f"not known, n = {row[n]}"
    return f"{signed(effect)} pp [{signed(row['ci_low'])}, {signed(row['ci_high'])}], n = {row[n]}"


def _here(row: Row) -> str:
    """The figure here, its difference to the published one, the interval of that, and the number of seeds."""
    here = _number(row["here"], row["unit"])
    if row["difference"] is None:
        return f"{here}, n = {row['n']}"
    ends = [NOTHING if row[end] is None else signed(row[end]) for end in ("ci_low", "ci_high")]
    return f"{here}: {signed(row['difference'])} {row['margin_unit']} [{', '.join(ends)}], n = {row['n']}"


def _number(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}".replace("-", "\u2212")


def _minutes(machine: dict[str, Any]) -> str:
    if not machine["gpus"]:
        return "0" if machine["seconds"] is None else f"0 ({duration(machine['seconds'])} on CPU cores)"
    return NOTHING if machine["gpu_hours"] is None else f"{60 * machine['gpu_hours']:.1f}"


def replaced(text: str, start: str, end: str, lines: Iterable[str]) -> str:
    """The text with these lines between the markers. Raises ValueError if there are no such markers."""
    before, found, rest = text.partition(start)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise ValueError(f"found no {start if not found else end}")
    return f"{before}{start}\n{''.join(lines)}{end}{after}"
