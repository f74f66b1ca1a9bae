"""Grids of trials that share their training in every way that there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CNN: dict[str, Any] = {"model": "tests.plugins:tiny_cnn", "batch_size": 230, "epochs": 3}
ADAM: dict[str, Any] = {**CNN, "augment": "flip_shift", "lr": 0.01}
SGD: dict[str, Any] = {**CNN, "optimizer": "sgd", "lr": 0.05}
RETRAINS: list[dict[str, Any]] = [
    {"rewind_epoch": 0},
    {"rewind_epoch": 1},
    {"rewind_epoch": "7it"},
    {"rewind_epoch": "7it", "rewind_optimizer": "fresh"},
    {"rewind_epoch": 1, "rewind_optimizer": "fresh"},
    {"retrain": "lr_rewinding"},
    {"retrain": "fine_tuning"},
]


def levels(base: dict[str, Any], retrains: Sequence[dict[str, Any]] = RETRAINS) -> list[dict[str, Any]]:
    """A dense baseline, two levels for each way to retrain, and for the first way a ticket that ends on the way."""
    ladder = [{**base, **retrain, "target_sparsity_pct": 64} for retrain in retrains]
    return [{**base, "control": "dense"}, {**base, **retrains[0], "target_sparsity_pct": 40}, *ladder]


def within_fit(base: dict[str, Any]) -> list[dict[str, Any]]:
    """Two dense baselines, and schedules within one fit that part from them at different epochs."""
    fit = {**base, "target_sparsity_pct": 70, "epochs": 6}
    return [
        {**base, "control": "dense", "epochs": 2},
        {**base, "control": "dense", "epochs": 6},
        {**fit, "schedule": "iterative", "rewind_epoch": 0},
        {**fit, "schedule": "iterative", "rewind_epoch": 1},
        {**fit, "schedule": "one_shot", "rewind_epoch": 0},
        {**fit, "schedule": "one_shot", "rewind_epoch": 1, "reset_end": True},
        {**fit, "schedule": "one_shot", "rewind_epoch": 1},
        {**fit, "schedule": "one_shot", "retrain": "none"},
        {**fit, "schedule": "agp"},
        {**fit, "schedule": "dsd"},
    ]


def controlled(ticket: dict[str, Any], *controls: str) -> list[dict[str, Any]]:
    """A ticket with these controls, all that there are unless told."""
    names = controls or ("random_mask", "layerwise_shuffle", "reinit", "random_sparse")
    return [ticket, *({**ticket, "control": control} for control in names)]


LADDER: dict[str, Any] = {**ADAM, "target_sparsity_pct": 64}
ONE_SHOT: dict[str, Any] = {**ADAM, "epochs": 6, "schedule": "one_shot", "target_sparsity_pct": 70}
NEW = ("reinit", "random_sparse")
GRIDS: dict[str, list[dict[str, Any]]] = {
    "adam, augmented": levels(ADAM),
    "sgd": levels(SGD, RETRAINS[::2]),
    "one_cycle, adam": levels({**ADAM, "lr_policy": "one_cycle"}, RETRAINS[2:]),
    "one_cycle, sgd": levels({**SGD, "lr_policy": "one_cycle"}, RETRAINS[2:3]),
    "cosine, two optimisers": levels({**ADAM, "lr_policy": "cosine", "warmup_pct": 0.2}, RETRAINS[1:3])
    + levels({**SGD, "lr_policy": "cosine", "warmup_pct": 0.2}, RETRAINS[2:3]),
    "steps with a ramp": levels({**SGD, "lr_policy": "steps", "warmup_pct": 0.2}, [*RETRAINS[2:4], *RETRAINS[5:]]),
    "omp, output rate, supermask": [
        *levels(ADAM, RETRAINS[:3]),
        {**ADAM, "schedule": "omp", "target_sparsity_pct": 64, "rewind_epoch": 1},
        {**ADAM, "schedule": "omp", "target_sparsity_pct": 80, "retrain": "lr_rewinding"},
        {**ADAM, "target_sparsity_pct": 64, "layers": "all", "output_prune_rate_pct": 20},
        {**ADAM, "target_sparsity_pct": 40, "layers": "all", "output_prune_rate_pct": 20},
        {**ADAM, "target_sparsity_pct": 40, "layers": "all"},
        {**ADAM, "target_sparsity_pct": 64, "rewind_epoch": 1, "reset_end": True},
        {**ADAM, "target_sparsity_pct": 64, "rewind_epoch": "7it", "reset_end": True},
        {**ADAM, "epochs": 2, "target_sparsity_pct": 40, "rewind_epoch": 1},
    ],
    "validated often": [
        *levels({**ADAM, "lr": 0.05, "validate_every": 2}, RETRAINS[:3]),
        {**ADAM, "lr": 0.05, "target_sparsity_pct": 64, "rewind_epoch": 1},
    ],
    "criteria": [
        {**CNN, "target_sparsity_pct": s, "criterion": c, "context": context}
        for c in ("random", "updating_movement")
        for s, context in ((40, "local"), (64, "local"), (64, "global"))
    ],
    "within a fit, augmented": within_fit(ADAM),
    "within a fit, sgd, one_cycle": within_fit({**SGD, "lr_policy": "one_cycle"})[::2],
    "a fit and levels on one trunk": [
        *within_fit(SGD)[1:4],
        {**SGD, "epochs": 6, "target_sparsity_pct": 40, "rewind_epoch": "3it"},
        {**SGD, "epochs": 6, "target_sparsity_pct": 40, "rewind_epoch": "7it"},
    ],
    "controls of levels": [
        {**ADAM, "control": "dense"},
        *controlled({**LADDER, "rewind_epoch": 1}),
        *controlled({**LADDER, "rewind_epoch": "7it"}),
        *controlled({**LADDER, "rewind_epoch": 1, "rewind_optimizer": "fresh"}, "random_mask", "reinit"),
        *controlled({**LADDER, "retrain": "lr_rewinding"}, *NEW),
        *controlled({**LADDER, "retrain": "fine_tuning", "lr_policy": "cosine"}, *NEW),
    ],
    "controls of omp, global, by filters": [
        *controlled({**SGD, "schedule": "omp", "target_sparsity_pct": 64, "context": "global", "lr_policy": "cosine"}),
        *controlled({**SGD, "target_sparsity_pct": 40, "granularity": "filter", "rewind_epoch": 1}),
        *controlled({**SGD, "target_sparsity_pct": 40, "granularity": "filter", "context": "global"}, "random_mask"),
    ],
    "controls within a fit": [
        *controlled({**ADAM, "epochs": 6, "schedule": "iterative", "target_sparsity_pct": 70, "rewind_epoch": 1}),
        *controlled({**ONE_SHOT, "rewind_epoch": 0}),
        *controlled({**ONE_SHOT, "schedule": "agp"}, *NEW),
    ],
    "controls of supermasks": [
        *controlled({**LADDER, "rewind_epoch": 1, "reset_end": True}, "layerwise_shuffle", "sign_shuffle"),
        *controlled({**ONE_SHOT, "reset_end": True}, "layerwise_shuffle", "sign_shuffle"),
        *controlled({**ONE_SHOT, "retrain": "none", "rewind_epoch": 1, "reset_end": True}, "sign_shuffle"),
    ],
    "dense with restarts, narrow": [
        *controlled({**LADDER, "rewind_epoch": 1, "rewind_optimizer": "fresh"}, "dense_restarts"),
        *controlled({**LADDER, "retrain": "lr_rewinding", "lr_policy": "cosine"}, "dense_restarts"),
        *controlled({**LADDER, "retrain": "fine_tuning"}, "dense_restarts"),
        *controlled({**ONE_SHOT, "schedule": "iterative", "rewind_epoch": 1}, "dense_restarts"),
        *({"batch_size": 230, "epochs": epochs, "control": "dense", "width_pct": 20} for epochs in (2, 3)),
    ],
}  # fmt: skip
