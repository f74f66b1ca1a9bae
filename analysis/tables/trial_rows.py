"""From what the store has of a trial to its row of the table of trials. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.tables import schema
from analysis.tables.columns import spec_columns
from analysis.tables.profile_schema import profile_values
from analysis.tables.records import Found
from analysis.tables.run_plan import PlanEntry
from lth_trainable.store.image_bits import to_bytes

_RESULTS = (
    "sparsity_pct", "n_weights", "n_kept", "valid_accuracy", "best_valid_accuracy", "test_accuracy", "valid_loss",
    "test_loss", "balanced_accuracy", "chance_accuracy", "early_stop_epoch", "early_stop_iteration",
    "early_stop_censored", "early_stop_valid_loss", "early_stop_valid_accuracy", "early_stop_test_accuracy",
    "epochs_total", "flops_dense", "flops_sparse", "inference_flops_dense", "inference_flops_sparse",
)  # fmt: skip
_RIGHT = ("valid", "test", "early_stop_test")
_DATA = ("n_train", "n_valid", "n_test", "majority_class_accuracy")
_VERSIONS = ("python", "torch", "fastai", "ray", "cuda", "cudnn", "driver")


def trial_row(run: str, name: str, found: Found, planned: PlanEntry | None) -> dict[str, Any]:
    """A row of trials.parquet without role, status, group and what follows from other trials.

    What the trial does not have is left out, so null.
    """
    record = found.record
    spec = record.get("spec") or (planned.spec if planned else None)
    return {
        "run": run,
        "trial": name,
        "key": record.get("key") or (planned.key if planned else None),
        **(spec_columns(spec) if spec else dict.fromkeys(schema.SPEC_FIELDS)),
        **_precision_of_older(record),
        **_measured(record),
        **_provenance(record),
    }


def _precision_of_older(record: Mapping[str, Any]) -> dict[str, str]:
    """The precision of a trial that an older version trained on a GPU: convolutions in TF32 in place of fp32."""
    fingerprint = record.get("fingerprint") or {}
    on_gpu = str(fingerprint.get("device", "")).startswith("cuda")
    return {"precision": "tf32"} if on_gpu and "memory_format" not in fingerprint else {}


def _measured(record: Mapping[str, Any]) -> dict[str, Any]:
    result, data, right = (record.get(name) or {} for name in ("result", "data", "right"))
    collapsed, rows = result.get("collapsed_layers"), record.get("epochs")
    return {
        **{name: result.get(name) for name in _RESULTS},
        "n_collapsed_layers": None if collapsed is None else len(collapsed),
        **_of_all_weights(record, result),
        **{name: record.get(name) for name in ("epochs_trained", "train_seconds")},
        **profile_values(record.get("profile")),
        "seconds_total": None if rows is None else sum(row["seconds"] for row in rows),
        **{name: data.get(name) for name in _DATA},
        **{f"{name}_right": to_bytes(text) for name in _RIGHT if (text := right.get(name)) is not None},
        "data_digest": data.get("digest"),
    }


def _of_all_weights(record: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """How much of all weights is prunable and pruned; nothing for a record of an older version."""
    found = record.get("all_weights")
    if not found or not found["n"]:
        return {}
    most_first = sorted(found["not_pruned"].items(), key=lambda item: -item[1])
    return {
        "n_all_weights": found["n"],
        "prunable_pct": 100 * result["n_weights"] / found["n"],
        "pruned_of_all_pct": 100 * (result["n_weights"] - result["n_kept"]) / found["n"],
        "not_pruned": "; ".join(f"{reason}: {n:,}" for reason, n in most_first),
        "n_dead_filters": sum(record.get("dead_filters", {}).values()),
    }


def _provenance(record: Mapping[str, Any]) -> dict[str, Any]:
    states, sums = record.get("states") or {}, record.get("sha256") or {}
    versions, fingerprint = record.get("versions") or {}, record.get("fingerprint") or {}
    return {
        **{f"state_{which}": states.get(which) for which in ("initial", "rewind", "final")},
        **{f"sha256_{what}": sums.get(what) for what in ("weights", "masks", "metrics")},
        **{f"{what}_version": versions.get(what) for what in _VERSIONS},
        "code_version": fingerprint.get("code"),
        "code_sha256": versions.get("source"),
        **{name: fingerprint.get(name) for name in ("device", "threads", "deterministic", "memory_format")},
        "replicas": fingerprint.get("replicas", 1) if fingerprint else None,
    }
