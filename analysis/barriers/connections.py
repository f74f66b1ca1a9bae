"""What the lines between trained networks say: rows of connections.parquet by pair of networks. Pure functions.

Paul et al. (ICLR 2023, arXiv 2210.03044) find, at higher sparsities: the networks of consecutive levels are connected
by a line without a barrier if and only if they match the dense network. Here a pair is *connected* if its mean barrier
on the test data is below 2 pp, and *matches* if the mean test error of neither network is more than the run's margin
above that of the dense network. Both are means over lines (one for each seed, and with several order seeds for each of
them), and no test.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from analysis.barriers.ends import DENSE, LEVELS
from analysis.barriers.networks import RAW, RECOMPUTED, STABLE_PP, has_batch_norm
from analysis.labels import short_labels, without_fields
from analysis.tables.schema import Row
from analysis.text import plural

RULE = "connected if and only if both networks match the dense one"
PAPER = "Paul et al., ICLR 2023"


@dataclass(frozen=True, kw_only=True)
class Connection:
    """All lines between two networks of a ladder, one for each seed and order seed.

    kind: of BatchNorm statistics by which it is judged. above_a, above_b: by how much the test error of the ends is
    above that of the dense network, pp; one number for each line whose dense network is known.
    """

    ladder: str
    between: str
    rows: tuple[Row, ...]
    kind: str
    above_a: tuple[float, ...]
    above_b: tuple[float, ...]

    @property
    def levels(self) -> tuple[int, int]:
        return int(self.rows[0]["level_a"]), int(self.rows[0]["level_b"])

    @property
    def margin_pp(self) -> float:
        return float(self.rows[0]["margin_pp"])

    @property
    def label(self) -> str:
        """Its ends: "dense – 40 %", "40 – 64 %"."""
        a, b = (end_label(self.rows[0], end) for end in "ab")
        return f"{a.removesuffix(' %')} – {b}"

    @property
    def n_seeds(self) -> int:
        return len({row["seed"] for row in self.rows})

    @property
    def n_lines(self) -> int:
        """The number of lines; more than seeds if the run has several order seeds."""
        return len(self.barriers("test", self.kind))

    @property
    def mean_over(self) -> str:
        """What means are taken over: "3 seeds", or "6 lines of 3 seeds"."""
        seeds = plural(self.n_seeds, "seed")
        return seeds if self.n_lines == self.n_seeds else f"{plural(self.n_lines, 'line')} of {seeds}"

    def barriers(self, split: str, kind: str) -> list[float]:
        """The barrier of every line on the test or training data, pp."""
        return [row["barrier_pp"] for row in self.rows if row["part"] == split and row["batch_norm"] == kind]

    @property
    def is_connected(self) -> bool:
        return fmean(self.barriers("test", self.kind)) < STABLE_PP

    def matches_at(self, end: str) -> bool | None:
        """Whether the network at an end, "a" or "b", matches the dense one; None if that is not known."""
        above = self.above_a if end == "a" else self.above_b
        return fmean(above) <= self.margin_pp if above else None

    @property
    def matches(self) -> bool | None:
        """Whether both networks match the dense one; None if that is not known."""
        found = {self.matches_at("a"), self.matches_at("b")}
        return None if None in found else found == {True}

    @property
    def follows_rule(self) -> bool | None:
        """Whether it is as the paper's rule says. None: it is not about consecutive levels, or nothing is known."""
        if self.matches is None or self.between != LEVELS:
            return None
        return self.matches == self.is_connected

    @property
    def in_words(self) -> str:
        match = {True: "both match", False: "not both match", None: "dense is not known"}[self.matches]
        return f"{'connected' if self.is_connected else 'not connected'}, {match}"


def end_label(row: Row, end: str) -> str:
    """A network in words: "dense", or its sparsity."""
    return f"{round(row[f'sparsity_{end}_pct'], 2):g} %" if row[f"level_{end}"] else "dense"


def connections(rows: Sequence[Row], between: str) -> list[Connection]:
    """The pairs of networks, ladder by ladder, from the least sparse on. Of a line with several numbers of points the
    one with most counts."""
    finest: dict[tuple[object, ...], Row] = {}
    for row in rows:
        if row["between"] == between:
            line = (row["ladder"], row["state_a"], row["state_b"], row["part"], row["batch_norm"])
            finest[line] = max(finest.get(line, row), row, key=lambda found: found["n_points"])
    kind = RECOMPUTED if has_batch_norm(rows) else RAW
    dense = {
        _replicate(row): row["error_a_pct"] for row in finest.values()
        if row["level_a"] == 0 and row["part"] == "test" and row["batch_norm"] == RAW
    }  # fmt: skip
    pairs: dict[tuple[str, int, int, float], list[Row]] = defaultdict(list)
    for row in finest.values():
        pairs[row["ladder"], row["level_a"], row["level_b"], round(row["sparsity_b_pct"], 2)].append(row)
    return [
        Connection(
            ladder=pair[0], between=between, rows=tuple(pairs[pair]), kind=kind,
            above_a=_above(pairs[pair], "a", dense), above_b=_above(pairs[pair], "b", dense),
        )
        for pair in sorted(pairs, key=lambda pair: (pair[0], pair[3], pair[1]))
    ]  # fmt: skip


def _replicate(row: Row) -> str:
    """What a line shares with those of the same seed, order seed and split: its ticket's name but for the sparsity."""
    return without_fields(row["trial"], ("target_sparsity_pct",))


def _above(rows: Iterable[Row], end: str, dense: Mapping[str, float]) -> tuple[float, ...]:
    return tuple(
        row[f"error_{end}_pct"] - dense[_replicate(row)] for row in rows
        if row["part"] == "test" and row["batch_norm"] == RAW and _replicate(row) in dense
    )  # fmt: skip


def by_ladder(found: Iterable[Connection]) -> dict[str, list[Connection]]:
    ladders: dict[str, list[Connection]] = defaultdict(list)
    for connection in found:
        ladders[connection.ladder].append(connection)
    return dict(ladders)


def tally(found: Sequence[Connection]) -> str:
    """How many pairs follow the paper's rule: "4 of 5"."""
    known = [connection for connection in found if connection.follows_rule is not None]
    return f"{sum(bool(connection.follows_rule) for connection in known)} of {len(known)}"


def connection_sentences(rows: Sequence[Row]) -> list[str]:
    """What the lines say, in sentences for somebody who has not read the paper."""
    levels, dense = (connections(rows, between) for between in (LEVELS, DENSE))
    return [*(_about_levels(levels) if levels else []), *(_about_dense(dense) if dense else [])]


def _about_levels(found: Sequence[Connection]) -> list[str]:
    labels = _labels(found)
    most, margin = max(found, key=lambda connection: connection.n_lines), found[0].margin_pp
    sentences = [
        f"Consecutive levels{labels[ladder]}: {_which(pairs)}. The rule of {PAPER} ({RULE}) holds for "
        f"{tally(pairs)} pairs{_exceptions(pairs)}."
        for ladder, pairs in by_ladder(found).items()
    ]
    explained = (
        f"Connected: the mean barrier on test is below {STABLE_PP:g} pp{_statistics(found)}; matches: the mean test "
        f"error is at most {margin:g} pp above the dense one, over {most.mean_over}. Both are means and no "
        "test; the verdict tests whether tickets match. Connected and matching means that training under the new mask "
        "came back to the low-error region of the level before; a barrier means that it ended in another one."
    )
    return [*sentences, explained]


def _about_dense(found: Sequence[Connection]) -> list[str]:
    labels = _labels(found)
    sentences = [f"Dense and ticket{labels[ladder]}: {_which(pairs)}." for ladder, pairs in by_ladder(found).items()]
    explained = (
        f"The line from dense to ticket crosses several prunes at once (connected: mean barrier on test below "
        f"{STABLE_PP:g} pp{_statistics(found)}). The paper's rule is about consecutive levels: a barrier here does not "
        "say that the ticket fails."
    )
    return [*sentences, explained]


def _labels(found: Sequence[Connection]) -> dict[str, str]:
    ladders = list(by_ladder(found))
    labels = short_labels(ladders)
    return {ladder: f", {labels[ladder]}" if len(ladders) > 1 else "" for ladder in ladders}


def _which(pairs: Sequence[Connection]) -> str:
    """Which pairs are connected: "all 5 pairs are connected"."""
    yes = [pair.label for pair in pairs if pair.is_connected]
    no = [pair.label for pair in pairs if not pair.is_connected]
    if len(pairs) == 1:
        return f"{pairs[0].label} is {'connected' if yes else 'not connected'}"
    if not yes or not no:
        return f"{'all' if yes else 'none'} of the {len(pairs)} pairs {'are' if yes else 'is'} connected"
    return f"connected are {', '.join(yes)}; not connected are {', '.join(no)}"


def _exceptions(pairs: Sequence[Connection]) -> str:
    found = [f"{pair.label} ({pair.in_words})" for pair in pairs if pair.follows_rule is False]
    return f"; not for {', '.join(found)}" if found else ""


def _statistics(found: Sequence[Connection]) -> str:
    return ", BatchNorm statistics recomputed" if found[0].kind == RECOMPUTED else ""
