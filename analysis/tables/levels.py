"""Rows of levels.parquet: each level of a trial, with its mask and its training up to the next prune. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.tables.schema import Row


def sparsity_pct(n_kept: int, n_weights: int) -> float:
    """100 (1 - n_kept / n_weights): per cent of the weights that are zero."""
    return 100 * (1 - n_kept / n_weights)


def level_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a level of a record, dense first; nulls of training for a level that the next prune came before."""
    layers: dict[int, list[Row]] = defaultdict(list)
    for layer in record["layers"]:
        layers[layer["level"]].append(layer)
    epochs: dict[int, list[Row]] = defaultdict(list)
    for epoch in record["epochs"]:
        epochs[epoch["level"]].append(epoch)
    return [
        {"level": level, **_mask(found), **_training(epochs.get(level, ()), record["trial"])}
        for level, found in sorted(layers.items())
    ]


def _mask(layers: Sequence[Row]) -> dict[str, Any]:
    n_weights, n_kept = sum(layer["n_weights"] for layer in layers), sum(layer["n_kept"] for layer in layers)
    return {
        "n_weights": n_weights, "n_kept": n_kept, "sparsity_pct": sparsity_pct(n_kept, n_weights),
        "n_collapsed_layers": sum(layer["n_kept"] == 0 for layer in layers),
    }  # fmt: skip


def _training(epochs: Sequence[Row], trial: str) -> dict[str, Any]:
    own = sum(row["trained_by"] == trial for row in epochs)
    counts = {"n_epochs": len(epochs), "n_own_epochs": own, "seconds": sum(row["seconds"] for row in epochs)}
    if not epochs:
        return counts
    last = epochs[-1]
    measured = [row for row in epochs if row["valid_loss"] is not None]  # a level that diverged has nulls at its end
    stop = min(measured, key=lambda row: row["valid_loss"], default={})
    return {
        **counts,
        "last_epoch": last["epoch"], "train_loss": last["train_loss"], "valid_loss": last["valid_loss"],
        "valid_accuracy": last["valid_accuracy"],
        "best_valid_accuracy": max((row["valid_accuracy"] for row in measured), default=None),
        "early_stop_epoch": stop.get("epoch"), "early_stop_valid_loss": stop.get("valid_loss"),
        "early_stop_valid_accuracy": stop.get("valid_accuracy"),
    }  # fmt: skip
