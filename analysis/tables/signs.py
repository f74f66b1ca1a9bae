"""Rows of signs.parquet: whether kept weights have the same sign initially, at the rewind point and after training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from analysis.stats.overlap import Mask, SignAgreement, Weights, sign_agreement
from analysis.tables import schema
from analysis.tables.overlaps import Bits, LayerSizes, final_masks
from analysis.tables.schema import Row
from analysis.tables.spans import arranged, spans
from lth_trainable.pruning.masks import unpack
from lth_trainable.store.layout import Odd, readable
from lth_trainable.store.store import WEIGHTS, Damaged, Store
from lth_trainable.store.tensor_files import arrays_of, check_like

TIMES = (("initial", "rewind"), ("initial", "final"), ("rewind", "final"))
_SOURCES = ("state_initial", "state_rewind", "sha256_weights", "sha256_masks")  # the rows of a trial follow from these


def signs_table(store: Store, tables: Mapping[str, pa.Table], before: Mapping[str, pa.Table]) -> pa.Table:
    """The table. before: tables of the last gather, from which trials with unchanged weights are taken.

    Only finished trials have rows, and none if the weights are not stored, or damaged; `sweeps.storage check` names
    such files.
    """
    trials = [row for row in tables["trials"].to_pylist() if row["status"] == "done"]
    old = _known(before)
    known = {row["trial"] for row in trials if old.get(row["trial"]) == _sources(row)}
    reader, sizes = _Reader(store), LayerSizes(tables["layers"])
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(trials, key=lambda row: (row["state_initial"], row["state_rewind"] or "")):
        if row["trial"] not in known:
            rows[row["trial"]] = _compare(reader, row, sizes.of(row["trial"]))
    fresh = schema.table("signs", [found for row in trials for found in rows.get(row["trial"], ())])
    order = (((row["trial"],), int(row["trial"] in known)) for row in trials)
    return arranged(order, ["trial"], fresh, before.get("signs", fresh))


def _known(before: Mapping[str, pa.Table]) -> dict[str, tuple[Any, ...]]:
    if not {"trials", "signs"} <= set(before):
        return {}
    present = spans(before["signs"], "trial")
    return {row["trial"]: _sources(row) for row in before["trials"].to_pylist() if (row["trial"],) in present}


def _sources(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in _SOURCES)


class _Reader:
    """Reads weights of states. The last initial and rewind weights stay in memory: the next trial often shares them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.last: dict[str, tuple[str, Mapping[str, Weights]]] = {}

    def weights(self, path: str, which: str) -> Mapping[str, Weights]:
        """Weights of the state at `path`. Raises `Damaged`, also if it is missing. which: initial, rewind or final."""
        if which in self.last and self.last[which][0] == path:
            return self.last[which][1]
        folder = self.store.find(path)
        if folder is None:
            raise Damaged(path, "the weights are missing")
        found = arrays_of(self.store, folder, WEIGHTS)
        if which != "final":
            self.last[which] = path, found
        return found


def _compare(reader: _Reader, row: Row, layers: Iterable[str]) -> list[dict[str, Any]]:
    trial, store = row["trial"], reader.store
    packed = final_masks(store, row["run"], trial)
    try:
        folder = store.find(store.trial(row["run"], trial))
        if packed is None or folder is None:
            return []
        states = folder.manifest["states"]
        with readable("weights"):
            weights = {which: _only(reader.weights(path, which), layers) for which, path in states.items()}
            mask = {name: _mask(packed, name, w.shape) for name, w in weights["final"].items()}
        for which in weights:
            check_like(folder, WEIGHTS, weights[which], mask)
    except (Damaged, Odd):  # of other layers than the record says; `sweeps.storage check` names such files
        return []
    kept = {name: int(np.count_nonzero(m)) for name, m in mask.items()}
    rows = []
    for one, other in TIMES:
        if {one, other} <= set(states) and states[one] != states[other]:
            found = sign_agreement(weights[one], weights[other], mask)
            about = {"run": row["run"], "trial": trial, "between": f"{one}-{other}"}
            rows.append(about | _row(None, sum(kept.values()), found.overall))
            rows += [about | _row(name, kept[name], part) for name, part in found.layers.items()]
    return rows


def _only(weights: Mapping[str, Weights], layers: Iterable[str]) -> dict[str, Weights]:
    return {name: weights[name] for name in layers}


def _mask(packed: Mapping[str, Bits], name: str, shape: tuple[int, ...]) -> Mask:
    return unpack(packed[name], shape) if name in packed else np.ones(shape, bool)  # dense trials have no masks


def _row(layer: str | None, n_kept: int, part: SignAgreement) -> dict[str, Any]:
    return {
        "layer": layer, "n_kept": n_kept, "n_agree": part.agree, "n_disagree": part.disagree, "n_zero": part.zero,
        "agreement": part.fraction,
    }  # fmt: skip
