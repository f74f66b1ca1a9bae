"""What the README says of the kept results: a table beside what papers have published, and a sentence on a tutorial."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.labels import short_labels
from analysis.published.points import SUPERMASK
from analysis.report.published import published_cells
from analysis.tables.parquet import Frames, load
from analysis.tables.published_schema import ABSENT, FAILS, HOLDS, OPEN
from analysis.tables.run_plan import KEPT
from analysis.tables.schema import BEATS, FALLS_SHORT, LOWER, MATCHES, UNDECIDED, Row
from analysis.text import duration, percent, signed
from analysis.verdicts.headlines import of_tickets
from lth_trainable.spec.words import field_words

HEADINGS = ("recipe", "claim", "published", "here", "agrees?", "GPU-minutes")
NOTHING = "–"
TUTORIAL = "tutorial_ticket_above_dense_5"  # the claim of the fasterai tutorial
_SURVIVES = {
    HOLDS: "survives: its {ticket} is more accurate than {dense}",
    FAILS: "does not survive: its {ticket} is not more accurate than {dense}",
    OPEN: "is neither confirmed nor refuted: its {ticket} is not shown to be more accurate than {dense}, nor not to be",
}
_AT_EQUAL_BUDGET = {  # by headline
    BEATS: "it is more accurate too",
    MATCHES: "it is at most {margin:g} pp less accurate",
    LOWER: "it is less accurate, by at most {margin:g} pp",
    FALLS_SHORT: "it is less accurate, by more than {margin:g} pp",
    UNDECIDED: "it is undecided whether the ticket is at most {margin:g} pp less accurate",
}


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
    """The rows of one result: its published claims, and how far its tickets match the dense network.

    Of a run that is held against untrained networks only its claims: its tickets are not what it is about.
    """
    frames, machine = load(kept), json.loads((kept / KEPT).read_text(encoding="utf-8"))
    link, minutes = _link(kept), _minutes(machine)
    held = _in_order([row for row in frames.rows("published") if row["result"] != ABSENT])
    for row in held:
        cells = published_cells(row)
        apart = _apart(row["ladder"], [other["ladder"] for other in held if other["claim"] == row["claim"]])
        yield ResultRow(
            recipe=link, claim=cells["sentence"] + (f" ({apart})" if apart else ""), published=_published(row, cells),
            here=_here(cells), agrees=_result(row), gpu_minutes=minutes,
        )  # fmt: skip
    if not held or any(row["quantity"] != SUPERMASK for row in held):
        for claim, here, verdict in _own_claims(frames):
            yield ResultRow(recipe=link, claim=claim, published=NOTHING, here=here, agrees=verdict, gpu_minutes=minutes)


def _link(kept: Path) -> str:
    return f"[{kept.name}](results/{kept.name})"


def markdown(folder: Path) -> str:
    """The table of all kept results in a folder, in Markdown, with a line break at its end."""
    lines = [" | ".join(HEADINGS), " | ".join(["---"] * len(HEADINGS))]
    for kept in results(folder):
        lines += [" | ".join(vars(row).values()) for row in rows_of(kept)]
    return "".join(f"| {line} |\n" for line in lines)


def _in_order(held: Sequence[Row]) -> list[Row]:
    """The rows in the order of their claims, those of a claim by ladder: Conv-2 before Conv-4."""
    claims = list(dict.fromkeys(row["claim"] for row in held))
    return sorted(held, key=lambda row: (claims.index(row["claim"]), row["ladder"]))


def _published(row: Row, cells: Mapping[str, str]) -> str:
    """The published figure, with its source and its margin; a bound has none."""
    paper = row["paper"]
    name = f"arXiv {paper}" if paper[:1].isdigit() else paper.replace("_", " ")
    margin = f", margin {cells['margin']}" if row["margin"] else ""
    return f"{cells['published']} ([{name}](results/published/{paper}.csv){margin})"


def _result(row: Row) -> str:
    """The result; of a figure that disagrees also on which side of the published one it is."""
    if row["result"] != FAILS or row["difference"] is None:
        return str(row["result"])
    return f"{row['result']} ({'higher' if row['difference'] > 0 else 'lower'})"


def _here(cells: Mapping[str, str]) -> str:
    """The figure of the run, and how far it is from the published one, as far as they are known."""
    known = [cells[name] for name in ("here", "difference") if cells[name] != NOTHING]
    return f"{': '.join(known) or 'not known'}, n = {cells['n']}"


def sentence(folder: Path) -> str:
    """Whether the claim of the fasterai tutorial survives, with its figures; empty if no result says it.

    The tutorial compares a ticket with a dense network of fewer epochs than the ticket took to find. What the ticket
    does against one of as many epochs is said too.
    """
    return next((said for kept in results(folder) if (said := sentence_of(kept))), "")


def notes(folder: Path) -> str:
    """What a reader should know of the results beside their recipes: a list in Markdown, empty if there is nothing."""
    found = {kept: json.loads((kept / KEPT).read_text(encoding="utf-8")).get("notes", ()) for kept in results(folder)}
    return "".join(f"* {_link(kept)}: {'; '.join(said)}.\n" for kept, said in found.items() if said)


def sentence_of(kept: Path, root: str = "") -> str:
    """The sentence if this result says it, else empty. root: of the project, on the page of the result itself."""
    frames = load(kept)
    held = next((row for row in frames.rows("published") if row["claim"] == TUTORIAL), None)
    if held is None or held["here"] is None:
        return ""
    same = (row for row in of_tickets(frames.rows("verdicts")) if row["group"] == held["group"])
    return f"{_of_the_claim(held, kept, f'{root}/' if root else '')}{''.join(map(_of_the_budget, same))}\n"


def _of_the_claim(held: Row, kept: Path, root: str) -> str:
    words = {"ticket": f"ticket of {100 - held['weights_left_pct']:g} %", "dense": "the dense network of 5 epochs"}
    said = _SURVIVES[held["result"]].format(**words)
    figures = _difference(held["here"], held, "n")
    tutorial = f"[fasterai's tutorial]({root}docs/from_fasterai.md)"
    return f"The claim of {tutorial} {said} ({figures if root else f'[{figures}](results/{kept.name})'})."


def _of_the_budget(row: Row) -> str:
    said = _AT_EQUAL_BUDGET[row["verdict"]].format(margin=row["margin_pp"])
    dense = f"the dense network of {row['epochs']} epochs, as many as the ticket took to find and train"
    return f" Against {dense}, {said} ({'; '.join([_difference(row['effect'], row, 'n_pairs'), *_corrected(row)])})."


def _own_claims(frames: Frames) -> Iterator[tuple[str, str, str]]:
    """For each ladder the sparsest level that matches dense, else its first level: claim, difference, headline."""
    ladders: dict[str, list[Row]] = defaultdict(list)
    untrained = {row["ladder"] for row in frames.rows("trials") if row["reset_end"]}
    for row in of_tickets(frames.rows("verdicts")):
        if row["ladder"] not in untrained:
            ladders[row["ladder"]].append(row)
    labels = short_labels(list(ladders))
    for ladder, rows in ladders.items():
        row = _sparsest(rows)
        sparsity = row["target_sparsity_pct"] if row["sparsity_pct"] is None else row["sparsity_pct"]
        left = percent(100 - sparsity)  # as it was measured: an output layer may lose less than the target
        label = f" ({labels[ladder]})" if len(ladders) > 1 else ""
        claim = f"tickets{label} match dense at {left} % of the weights, margin {row['margin_pp']:g} pp"
        yield claim, _difference(row["effect"], row, "n_pairs"), "; ".join([row["headline"], *_corrected(row)])


def _corrected(row: Row) -> list[str]:
    """Why it is undecided whether a level matches, where its 95 % interval alone would show that it does."""
    if row["verdict"] != UNDECIDED or None in (row["ci_low"], row["bound"], row["decisive_low"]):
        return []
    if row["ci_low"] <= row["bound"]:
        return []
    return [f"corrected for several tests the lower bound is {signed(row['decisive_low'])} pp"]


def _sparsest(rows: Sequence[Row]) -> Row:
    in_order = sorted(rows, key=lambda row: float(row["target_sparsity_pct"]))
    return [in_order[0], *(row for row in in_order if row["headline"] in (MATCHES, BEATS))][-1]


def _difference(effect: float | None, row: Row, n: str) -> str:
    if effect is None or row["ci_low"] is None or row["ci_high"] is None:
        return f"not known, n = {row[n]}"
    return f"{signed(effect)} pp [{signed(row['ci_low'])}, {signed(row['ci_high'])}], n = {row[n]}"


def _apart(ladder: str, ladders: Sequence[str]) -> str:
    """The parts of a ladder's name that differ from the others of its claim, in words."""
    parts = [name.split("-") for name in ladders]
    others = [set(values) for values in zip(*parts, strict=False)]
    own = zip(ladder.split("-"), others, strict=False)
    return " ".join(field_words("model", part) for part, values in own if len(values) > 1)


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
