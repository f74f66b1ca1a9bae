"""Contracts: checks that every criterion, schedule, granularity, network and data set must pass.

Each check is `f(plug_in) -> None` and raises `ContractError` with a sentence about what is wrong. `CONTRACTS` lists
them by kind. The tests run them for every entry of `CRITERIA`, `SCHEDULES`, `GRANULARITIES`, `MODELS` and `DATASETS`;
`python -m lth_trainable.check` runs them for a custom plug-in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lth_trainable.contracts import criteria, datasets, granularities, models, schedules
from lth_trainable.contracts.common import Contract, ContractError, serialisable
from lth_trainable.data.datasets import DATASETS, IN_FILES
from lth_trainable.models.networks import MODELS
from lth_trainable.pruning.criteria import CRITERIA
from lth_trainable.pruning.granularity import GRANULARITIES
from lth_trainable.pruning.schedules import SCHEDULES

__all__ = ["CONTRACTS", "Contract", "ContractError", "entries", "serialisable", "what_breaks"]

CONTRACTS: dict[str, tuple[Contract, ...]] = {
    "criterion": criteria.CONTRACTS,
    "schedule": schedules.CONTRACTS,
    "granularity": granularities.CONTRACTS,
    "model": models.CONTRACTS,
    "dataset": datasets.CONTRACTS,
}


def what_breaks(contract: Contract, plug_in: Any) -> str | None:
    """A sentence on how `plug_in` breaks the contract, or None if it keeps it. Any exception breaks it."""
    try:
        contract.check(plug_in)
    except ContractError as error:
        return str(error)
    except Exception as error:
        return f"it raises {type(error).__name__}: {error}"
    return None


def entries(kind: str) -> dict[str, Any]:
    """All built-in plug-ins of one kind by name, for the contract tests; without data sets that read files."""
    within_fit = {name: rule.function for name, rule in SCHEDULES.items() if rule.function is not None}
    registries: dict[str, Mapping[str, Any]] = {
        "criterion": CRITERIA, "schedule": within_fit, "granularity": {name: name for name in GRANULARITIES},
        "model": MODELS, "dataset": {name: DATASETS[name] for name in DATASETS if name not in IN_FILES},
    }  # fmt: skip
    return dict(registries[kind])
