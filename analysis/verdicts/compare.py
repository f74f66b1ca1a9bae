"""Comparison of two runs seed by seed, such as two recipes, criteria or versions of the code. Pure functions of rows.

A group of run A is compared with the group of run B that has the same spec fields, except for the *free* fields: those
in which the two runs have no value in common. So a field that differs between the runs, such as the epochs of a level,
is what is compared; a field with values that both runs have, such as two rewind epochs, is matched. The target sparsity
is always matched, and seeds are the replicates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from analysis.stats.paired import hedges_g, holm, standard_deviation, t_interval, two_sided, two_sided_flip_p
from analysis.tables.roles import is_dense_network
from analysis.tables.schema import SPEC_FIELDS, Row
from analysis.verdicts.groups import BASELINE, SEEDS, Pairs, pair_up, values_of
from analysis.verdicts.questions import MIN_PAIRS
from analysis.verdicts.splits import with_own_splits

ALPHA = 0.05  # two-sided, after Holm; matches the 95 % intervals
TICKETS, BASELINES, DENSE = KINDS = ("tickets", "baselines", "dense")  # of groups, each a family
PROVENANCE = (
    "data_digest", "code_version", "code_sha256", "python_version", "torch_version", "fastai_version", "ray_version",
    "cuda_version", "cudnn_version", "driver_version", "device", "threads", "deterministic", "replicas",
)  # fmt: skip
HIGHER, LOWER, OPEN, UNTESTED = "B higher", "B lower", "undecided", "not tested"
SAME = "the same"  # all trials that both runs have finished have the same metrics, byte for byte
_MATCHED = (*SEEDS, "target_sparsity_pct", "control")  # never free

Key = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A column of the trials table whose values differ between the runs; the values in order of first appearance."""

    column: str
    a: tuple[Any, ...]
    b: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A group of run A compared with its group of run B. Means in percent, differences (B minus A) in percentage
    points.

    kind: one of `KINDS`. ladder: that of A's group. n_both: trials that both runs have finished; n_same_metrics: those
    of them whose metrics have the same SHA-256. p, p_sign_flip: two-sided, before Holm; None below 2 pairs. p_holm:
    over the groups of the kind; a group with fewer than 5 pairs counts as p = 1 there and has None itself.
    unpaired: why seeds form no pair; n_unfinished: those of them with a failed, missing or damaged trial, with which
    nothing is shown. n_diverged: pairs with a diverged trial, which counts at chance; effect_finished:
    the mean difference without them, None if there are none.
    """

    kind: str
    group_a: str
    group_b: str
    ladder: str
    target_sparsity_pct: float | None
    n_pairs: int
    n_unpaired: int
    unpaired: str | None
    n_both: int
    n_same_metrics: int
    n_unfinished: int = 0
    n_diverged: int = 0
    effect_finished: float | None = None
    mean_a: float | None = None
    mean_b: float | None = None
    effect: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    sd: float | None = None
    hedges_g: float | None = None
    test: str | None = None
    p: float | None = None
    p_sign_flip: float | None = None
    p_holm: float | None = None
    result: str = UNTESTED


@dataclass(frozen=True, kw_only=True)
class Unmatched:
    """A group of run "A" or "B" that is compared with nothing. n_trials: the number of its trials."""

    run: Literal["A", "B"]
    kind: str
    group: str
    n_trials: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A comparison of two runs. free: spec fields in which they differ; versions: columns of provenance that differ."""

    endpoint: str
    free: tuple[Difference, ...]
    versions: tuple[Difference, ...]
    comparisons: tuple[Comparison, ...]
    unmatched: tuple[Unmatched, ...]


def compare(a: Iterable[Row], b: Iterable[Row], endpoint: str) -> Compared:
    """Compare the trials of two runs in the column `endpoint`, a fraction: tickets, tickets of another method, and
    dense.

    Controls are left out: they are compared with their tickets within a run.
    """
    rows_a, rows_b = with_own_splits(a), with_own_splits(b)
    free: dict[str, Difference] = {}
    comparisons: list[Comparison] = []
    unmatched: list[Unmatched] = []
    parts_a, parts_b = _parts(rows_a, rows_b), _parts(rows_b, rows_a)
    for kind in KINDS:
        ours, theirs = parts_a[kind], parts_b[kind]
        differ = free_fields(ours, theirs)
        free = {difference.column: difference for difference in differ} | free
        matches, alone = _match(kind, ours, theirs, [difference.column for difference in differ])
        comparisons += _tested(_in_order([_compared(kind, *match, endpoint) for match in matches]))
        unmatched += alone
    return Compared(
        endpoint=endpoint, free=tuple(free.values()), versions=_differences(rows_a, rows_b, PROVENANCE),
        comparisons=tuple(comparisons), unmatched=tuple(unmatched),
    )  # fmt: skip


def _parts(rows: Iterable[Row], other: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of a run by kind. A baseline of this run that is a ticket in the other run counts as a ticket."""
    shared = [name for name in SPEC_FIELDS if name not in SEEDS]
    asked = {values_of(row, shared) for row in other if row["control"] == "none" and row.get("role") != BASELINE}
    found: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    for row in rows:
        if row["control"] == "none":
            apart = row.get("role") == BASELINE and values_of(row, shared) not in asked
            found[BASELINES if apart else TICKETS].append(row)
        elif is_dense_network(row):
            found[DENSE].append(row)
    return found


def free_fields(a: Sequence[Row], b: Sequence[Row]) -> list[Difference]:
    """The spec fields in which the rows of the two runs have no value in common; none if one run has no rows."""
    names = [name for name in SPEC_FIELDS if name not in _MATCHED]
    return [found for found in _differences(a, b, names) if a and b and not set(found.a) & set(found.b)]


def _differences(a: Sequence[Row], b: Sequence[Row], columns: Iterable[str]) -> tuple[Difference, ...]:
    """The columns in which the runs have different sets of values. Only finished rows have provenance."""
    found = (Difference(column=name, a=_distinct(a, name), b=_distinct(b, name)) for name in columns)
    return tuple(difference for difference in found if set(difference.a) != set(difference.b))


def _distinct(rows: Sequence[Row], column: str) -> tuple[Any, ...]:
    counted = (row for row in rows if column not in PROVENANCE or row["status"] == "done")
    return tuple(dict.fromkeys(row.get(column) for row in counted))


def _match(
    kind: str, a: Sequence[Row], b: Sequence[Row], free: Sequence[str]
) -> tuple[list[tuple[list[Row], list[Row]]], list[Unmatched]]:
    """Pairs of groups that match one to one, in the order of A, and all other groups with the reason."""
    ours, theirs = _by_key(a, free), _by_key(b, free)
    matches, alone = [], []
    for key in dict.fromkeys([*ours, *theirs]):
        here, there = ours.get(key, []), theirs.get(key, [])
        if len(here) == len(there) == 1:
            matches.append((here[0], there[0]))
            continue
        alone += [_unmatched("A", kind, rows, here, there) for rows in here]
        alone += [_unmatched("B", kind, rows, there, here) for rows in there]
    return matches, alone


def _by_key(rows: Sequence[Row], free: Sequence[str]) -> Mapping[Key, list[list[Row]]]:
    """The groups of a run by the values that a group of the other run must share; several groups may have the same."""
    shared = [name for name in SPEC_FIELDS if name not in (*SEEDS, *free)]
    groups: dict[Key, dict[Key, list[Row]]] = {}
    for row in rows:
        of_key = groups.setdefault(values_of(row, shared), {})
        of_key.setdefault(values_of(row, free), []).append(row)
    return {key: list(found.values()) for key, found in groups.items()}


def _unmatched(
    run: Literal["A", "B"], kind: str, rows: Sequence[Row], here: Sequence[Any], there: Sequence[Any]
) -> Unmatched:
    other = "B" if run == "A" else "A"
    several = f"not one to one: {len(here)} such in {run}, {len(there)} in {other}"
    why = several if there else f"none such in {other}"
    return Unmatched(run=run, kind=kind, group=rows[0]["group"], n_trials=len(rows), why=why)


def _compared(kind: str, a: Sequence[Row], b: Sequence[Row], endpoint: str) -> Comparison:
    """The comparison of two groups, before the correction for the other groups."""
    pairs = pair_up(b, a, endpoint, other="A", ticket="B")
    broken = {row["seed"]: "no B trial" for row in a} | dict.fromkeys(pairs.seeds, "") | dict(pairs.broken)
    broken = {seed: reason for seed, reason in broken.items() if reason}
    sums_a, sums_b = _metrics(a), _metrics(b)
    both = [seeds for seeds in sums_a if seeds in sums_b]
    found = Comparison(
        kind=kind, group_a=a[0]["group"], group_b=b[0]["group"], ladder=a[0]["ladder"],
        target_sparsity_pct=a[0]["target_sparsity_pct"], n_pairs=pairs.n, n_unpaired=len(broken),
        unpaired=Pairs(broken=broken).why_broken, n_both=len(both),
        n_same_metrics=sum(sums_a[seeds] == sums_b[seeds] for seeds in both), n_unfinished=len(pairs.unfinished),
        n_diverged=len(pairs.diverged),        effect_finished=_effect_finished(pairs),
    )  # fmt: skip
    return replace(found, **_statistics(pairs))


def _effect_finished(pairs: Pairs) -> float | None:
    finished = pairs.finished()
    return float(100 * finished.differences.mean()) if pairs.diverged and finished.n else None


def _in_order(found: Sequence[Comparison]) -> list[Comparison]:
    """Sorted by ladder, in order of first appearance, and within it from the least sparse on."""
    ladders = {ladder: i for i, ladder in enumerate(dict.fromkeys(row.ladder for row in found))}
    return sorted(found, key=lambda row: (ladders[row.ladder], row.target_sparsity_pct or 0.0))


def _metrics(rows: Iterable[Row]) -> dict[Key, str]:
    """SHA-256 of the metrics of finished trials, by their seeds."""
    done = (row for row in rows if row["status"] == "done" and row["sha256_metrics"] is not None)
    return {values_of(row, SEEDS): row["sha256_metrics"] for row in done}


def _statistics(pairs: Pairs) -> dict[str, Any]:
    if not pairs.n:
        return {}
    d = 100 * pairs.differences
    means = {"mean_a": 100 * sum(pairs.others) / pairs.n, "mean_b": 100 * sum(pairs.tickets) / pairs.n}
    interval = t_interval(d)
    if interval is None:
        return {**means, "effect": float(d.mean())}
    tested = two_sided(d)
    return {
        **means, "effect": interval.mean, "ci_low": interval.low, "ci_high": interval.high,
        "sd": standard_deviation(d), "hedges_g": hedges_g(d), "test": tested.test, "p": tested.p,
        "p_sign_flip": two_sided_flip_p(d),
    }  # fmt: skip


def _tested(family: Sequence[Comparison]) -> list[Comparison]:
    """With p after Holm over the family. Groups with too few pairs count as p = 1: unfinished runs gain nothing."""
    p = [found.p if found.p is not None and found.n_pairs >= MIN_PAIRS else None for found in family]
    adjusted = holm([1.0 if value is None else value for value in p])
    decisive = [None if value is None else p_holm for value, p_holm in zip(p, adjusted, strict=True)]
    return [replace(found, p_holm=p, result=_result(found, p)) for found, p in zip(family, decisive, strict=True)]


def _result(found: Comparison, p_holm: float | None) -> str:
    if found.n_both and found.n_same_metrics == found.n_both:
        return SAME
    if p_holm is None:
        return UNTESTED
    if p_holm > ALPHA or found.n_unfinished:
        return OPEN
    return HIGHER if found.effect is not None and found.effect > 0 else LOWER
