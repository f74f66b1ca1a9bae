"""Rows of overlaps.parquet: final masks of tickets that differ in one thing, compared layer by layer.

That one thing is the seed, the rewind point or the criterion. Tickets of a pair have the same target sparsity, so the
levels of one chain, whose masks are nested, are not compared.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from analysis.stats.overlap import Overlap, overlap_of_counts
from analysis.tables import schema
from analysis.tables.schema import SPEC_FIELDS, Row
from analysis.tables.spans import arranged, spans
from lth_trainable.store.level_masks import last_level
from lth_trainable.store.store import MASKS, Damaged, Store, map_in_threads
from lth_trainable.store.tensor_files import bits_of

BETWEEN = {"seed": ("seed",), "rewind": ("rewind_epoch", "rewind_step"), "criterion": ("criterion",)}
MEMBERS = 10  # of a family that are compared, all with all: 45 pairs
KEYS = ("between", "trial_a", "trial_b")

Bits = npt.NDArray[np.uint8]
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)  # of each byte


@dataclass(frozen=True, kw_only=True)
class Family:
    """Tickets that differ in one thing only: the first `MEMBERS` of them in the table of trials."""

    between: str
    trials: tuple[str, ...]

    @property
    def pairs(self) -> Iterator[tuple[str, str]]:
        return itertools.combinations(self.trials, 2)


def find_families(trials: Iterable[Row]) -> list[Family]:
    """Families of at least two finished tickets, by what they differ in, then in order of first appearance."""
    done = [row for row in trials if row["status"] == "done" and row["control"] == "none"]
    found = []
    for between, free in BETWEEN.items():
        shared = itemgetter(*(name for name in SPEC_FIELDS if name not in free))
        members: dict[tuple[Any, ...], list[str]] = defaultdict(list)
        for row in done:
            members[shared(row)].append(row["trial"])
        found += [Family(between=between, trials=tuple(m[:MEMBERS])) for m in members.values() if len(m) > 1]
    return found


def overlaps_table(store: Store, run: str, tables: Mapping[str, pa.Table], before: Mapping[str, pa.Table]) -> pa.Table:
    """The table. before: tables of the last gather, from which pairs with unchanged masks are taken.

    A pair has no rows if one of its masks is not stored, or damaged; `sweeps.storage check` names such files.
    """
    shas = dict(zip(*(tables["trials"][name].to_pylist() for name in ("trial", "sha256_masks")), strict=True))
    known = _known(shas, before)
    sizes = LayerSizes(tables["layers"])
    order, rows = [], []
    for family in find_families(tables["trials"].to_pylist()):
        missing = [pair for pair in family.pairs if (family.between, *pair) not in known]
        compared = _compare(store, run, missing, sizes.of(family.trials[0]))
        for pair in family.pairs:
            key = (family.between, *pair)
            order.append((key, int(key in known)))
            rows += [{"run": run, **dict(zip(KEYS, key, strict=True)), **row} for row in compared.get(pair, ())]
    return arranged(order, KEYS, schema.table("overlaps", rows), before.get("overlaps", schema.table("overlaps", [])))


def _known(shas: Mapping[str, str | None], before: Mapping[str, pa.Table]) -> set[tuple[str, ...]]:
    """Pairs that were compared before and whose masks have not changed since."""
    if not {"trials", "overlaps"} <= set(before):
        return set()
    old = dict(zip(*(before["trials"][name].to_pylist() for name in ("trial", "sha256_masks")), strict=True))
    same = {trial for trial, sha in shas.items() if sha is not None and old.get(trial) == sha}
    return {key for key in spans(before["overlaps"], *KEYS) if {*key[1:]} <= same}


class LayerSizes:
    """Number of prunable weights of each layer of a trial, from the table of layers."""

    def __init__(self, layers: pa.Table) -> None:
        self.layers, self.places = layers, spans(layers, "trial")

    def of(self, trial: str) -> dict[str, int]:
        start, end = self.places[(trial,)]
        rows = self.layers.slice(start, end - start).select(["level", "layer", "n_weights"]).to_pylist()
        return {row["layer"]: row["n_weights"] for row in rows if row["level"] == 0}


def _compare(
    store: Store, run: str, pairs: Sequence[tuple[str, str]], weights: Mapping[str, int]
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    trials = list(dict.fromkeys(itertools.chain.from_iterable(pairs)))
    read = map_in_threads(lambda trial: final_masks(store, run, trial), trials)
    sizes = {layer: -(-n // 8) for layer, n in weights.items()}
    masks = {trial: mask for trial, mask in zip(trials, read, strict=True) if mask and _are_of(mask, sizes)}
    whole = [pair for pair in pairs if pair[0] in masks and pair[1] in masks]
    numbers = {trial: number for number, trial in enumerate(masks)}
    a, b = ([numbers[pair[side]] for pair in whole] for side in (0, 1))
    counts = {layer: _counts([mask[layer] for mask in masks.values()], a, b) for layer in weights if whole}
    return {
        pair: list(_rows({layer: (n, *counts[layer][i].tolist()) for layer, n in weights.items()}))
        for i, pair in enumerate(whole)
    }


def _are_of(masks: Mapping[str, Bits], sizes: Mapping[str, int]) -> bool:
    """Whether there is a mask of each layer, of the right size in bytes."""
    return all(layer in masks and masks[layer].size == size for layer, size in sizes.items())


def final_masks(store: Store, run: str, trial: str) -> dict[str, Bits] | None:
    """Bit-packed masks of the last level of a trial, by parameter; None if they are not stored, or damaged."""
    try:
        folder = store.find(store.trial(run, trial))
        if folder is None or MASKS not in folder.manifest["files"]:
            return None
        return last_level(bits_of(store, folder))
    except Damaged:
        return None


def _counts(masks: Sequence[Bits], a: Sequence[int], b: Sequence[int]) -> npt.NDArray[np.int64]:
    """Numbers of weights of one layer that each mask of a pair keeps, and both: shape (pairs, 3)."""
    bits = np.stack(masks)
    kept = _ONES[bits].sum(axis=1, dtype=np.int64)
    both = _ONES[bits[a] & bits[b]].sum(axis=1, dtype=np.int64)
    return np.stack([kept[a], kept[b], both], axis=1)


def _rows(counts: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Any]]:
    found = overlap_of_counts(counts)
    yield _row(None, found.overall)
    for layer, part in found.layers.items():
        yield _row(layer, part)


def _row(layer: str | None, part: Overlap) -> dict[str, Any]:
    return {
        "layer": layer, "n_weights": part.n, "n_kept_a": part.kept_a, "n_kept_b": part.kept_b, "n_both": part.both,
        "iou": part.iou, "chance_iou": part.chance_iou, "z": part.z, "nested": part.nested,
    }  # fmt: skip
