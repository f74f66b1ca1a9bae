"""The lines of a table of verdicts: a row each, but several undecided rows share one line. Pure; for terminal and page.

A run with too few seeds has dozens of undecided rows that say the same. One line says in which range they lie and what
would decide them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from analysis.labels import both, dense_label
from analysis.tables.schema import FALLS_SHORT, UNDECIDED, Row
from analysis.text import number_range, signed

NOTHING = "–"  # in the place of a number that does not exist
SAME_END = 1e-9  # percentage points by which equal ends may differ
LEAST_FOLDED = 3  # rows; two rows side by side say more than one line about both
Line = tuple[Row, ...]  # the rows that it stands for; a row alone is a line of its own
MORE = "more than "
_ONE = rf"(?:{MORE})?\d[\d,]*(?:\.\d+)?"
_NUMBER = re.compile(rf"{_ONE}(?: to {_ONE})?")  # or a range of two


def every_row(rows: Sequence[Row]) -> list[Line]:
    """Each row as a line of its own."""
    return [(row,) for row in rows]


def folded(rows: Sequence[Row]) -> list[Line]:
    """The rows in their order; at least three undecided rows that follow each other are one line.

    They make the same claim, and they are rungs of one ladder, or all rungs of ladders that are undecided throughout.
    """
    return [line for _, section in groupby(rows, _section) for line in _folded_section(list(section))]


def is_folded(line: Line) -> bool:
    """Whether the line stands for several rows."""
    return len(line) > 1


def _section(row: Row) -> tuple[Any, ...]:
    others = () if row["claim"] in ("matches", "beats") else (row["baseline"],)
    return row["claim"], row["role"], row["primary"], row["kind"], *others


def _folded_section(rows: list[Row]) -> Iterator[Line]:
    """The lines of rows that make the same claim."""
    ladders = [list(found) for _, found in groupby(rows, lambda row: row["ladder"])]
    for is_open, group in groupby(ladders, lambda ladder: all(map(_is_undecided, ladder))):
        if is_open:
            yield from _one_line([row for ladder in group for row in ladder])
            continue
        for ladder in group:
            for undecided, found in groupby(ladder, _is_undecided):
                stretch = list(found)
                yield from _one_line(stretch) if undecided else every_row(stretch)


def _is_undecided(row: Row) -> bool:
    return bool(row["verdict"] == UNDECIDED)


def _one_line(rows: Sequence[Row]) -> list[Line]:
    return [tuple(rows)] if len(rows) >= LEAST_FOLDED else every_row(rows)


def samples(rows: Iterable[Row]) -> str:
    """What the tests of these rows take as a sample: "over seeds and 360 images", or seeds alone."""
    sizes = sorted({row["n_images"] or 0 for row in rows})
    if not any(sizes):
        return "over seeds alone, on these images"
    images = " or ".join(f"{size:,}" for size in sizes if size)
    return f"over seeds and {images} images" + ("" if sizes[0] else ", or seeds alone")


# -- the cells of a line


def tickets(line: Line, labels: Mapping[str, str]) -> str:
    """The ladders of a line: "rewind epoch 0", "rewind epoch 0 and 1", or their number."""
    found = list(dict.fromkeys(labels[row["ladder"]] for row in line))
    return both(found) if len(found) <= 2 else f"{len(found)} ladders"


def sparsities(line: Line) -> str:
    """Target sparsities in percent: "64", "64 to 92.22"."""
    return _range([row["target_sparsity_pct"] for row in line], lambda value: f"{value:g}")


def seeds(line: Line) -> str:
    """The number of pairs, and out of how many if some are incomplete: "5", "4 of 5", "3 to 5"."""
    texts = list(dict.fromkeys(map(_pairs, line)))
    return texts[0] if len(texts) == 1 else _range([row["n_pairs"] for row in line], str)


def differences(line: Line) -> str:
    """Mean difference of a row, with its interval; of several rows the range of their means: "means −1.30 to 0.00"."""
    if not is_folded(line):
        return difference(line[0])
    means = ranged(line, "effect", signed)
    return means if means == NOTHING else f"means {means}"


def difference(row: Row) -> str:
    """Mean difference and its interval in pp: "+0.33 [−0.04, +0.71]"."""
    if row["effect"] is None:
        return NOTHING
    if row["ci_low"] is None:
        return signed(row["effect"])
    return f"{signed(row['effect'])} [{signed(row['ci_low'])}, {signed(row['ci_high'])}]"


def corrected(line: Line) -> str:
    """The confidence bound that decides a headline after its correction: "> −0.95"; "–" if it was not tested."""
    end = None if is_folded(line) else line[0].get("decisive_end")
    return NOTHING if end is None else f"{'<' if line[0]['verdict'] == FALLS_SHORT else '>'} {signed(end)}"


def is_corrected(rows: Sequence[Row]) -> bool:
    """Whether for some headline the bound that decides is not an end of the interval that is shown."""
    ends = [
        (row["decisive_end"], row["ci_high" if row["verdict"] == FALLS_SHORT else "ci_low"])
        for row in rows
        if row.get("decisive_end") is not None and row["ci_low"] is not None
    ]
    return any(abs(decisive - shown) > SAME_END for decisive, shown in ends)


def dense_of(line: Line) -> str:
    """The budget of the dense networks: "20 epochs", "restarts", or how many budgets they have."""
    found = list(dict.fromkeys(dense_label(row["baseline"]).removeprefix("dense, ") for row in line))
    return found[0] if len(found) == 1 else f"{len(found)} budgets"


def verdict(line: Line) -> str:
    """The verdict of a row; of several rows with their number: "6 undecided"."""
    return f"{len(line)} {line[0]['verdict']}" if is_folded(line) else str(line[0]["verdict"])


def reason(line: Line) -> str:
    """Why a row has its verdict, or what would decide the rows of a line; see `joined`."""
    return joined([row["why"] for row in line])


def joined(texts: Sequence[str]) -> str:
    """Texts that differ only in their numbers as one with ranges: "14 to 90 seeds would decide".

    Different texts follow each other, each with how many of the texts say so.
    """
    found: dict[str, list[list[str]]] = {}
    for text in texts:
        found.setdefault(_NUMBER.sub("#", text), []).append(_NUMBER.findall(text))
    ways = [(len(numbers), _filled(words, numbers)) for words, numbers in found.items()]
    if len(ways) == 1:
        return ways[0][1]
    return "; ".join(f"{text} ({count} of {len(texts)})" for count, text in ways)


def differ_in_numbers(texts: Sequence[str]) -> bool:
    """Whether these texts are the same but for their numbers, so that `joined` makes one of them."""
    return len({_NUMBER.sub("#", text) for text in texts}) == 1


def ranged(line: Line, column: str, write: Callable[[Any], str]) -> str:
    """The least and the greatest value of a column in words; "–" if no row has one."""
    return _range([row[column] for row in line if row[column] is not None], write)


def _pairs(row: Row) -> str:
    return f"{row['n_pairs']} of {row['n_pairs'] + row['n_unpaired']}" if row["n_unpaired"] else str(row["n_pairs"])


def _range(values: Sequence[Any], write: Callable[[Any], str]) -> str:
    return number_range(write(min(values)), write(max(values))) if values else NOTHING


def _filled(words: str, numbers: Sequence[Sequence[str]]) -> str:
    """The words with the range of each number, or of each range, in the place of its sign."""
    parts = words.split("#")
    ranges = []
    for texts in zip(*numbers, strict=True):
        ends = [text.split(" to ") for text in texts]
        ranges.append(number_range(min((e[0] for e in ends), key=_value), max((e[-1] for e in ends), key=_value)))
    return "".join(part + text for part, text in zip(parts, [*ranges, ""], strict=True))


def _value(number: str) -> tuple[float, bool]:
    """A number in words, to be compared: "more than 100" is above "100"."""
    digits = number.removeprefix(MORE)
    return float(digits.replace(",", "")), digits != number
