"""What every criterion, schedule, granularity, network and data set must do, as functions that say what it does not.

Each contract is `f(plug_in) -> None` and raises `ContractError` with a sentence. `CONTRACTS` lists them by kind; an
entry of `CRITERIA`, `SCHEDULES`, `GRANULARITIES`, `MODELS` or `DATASETS` is held to them by being there, and
`python -m lth_trainable.check` holds a user's own to the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lth_trainable.contracts import criteria, datasets, granularities, models, schedules
from lth_trainable.contracts.common import Contract, ContractError, serialisable
from lth_trainable.data.datasets import DATASETS
from lth_trainable.data.image_folders import LAYOUTS
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
    """How `plug_in` breaks the contract (any exception of its own does), in a sentence; None where it keeps it."""
    try:
        contract.check(plug_in)
    except ContractError as error:
        return str(error)
    except Exception as error:
        return f"it raises {type(error).__name__}: {error}"
    return None


def entries(kind: str) -> dict[str, Any]:
    """All plug-ins of the house of one kind, by name: what the contract suite runs over, no files being read."""
    within_fit = {name: rule.function for name, rule in SCHEDULES.items() if rule.function is not None}
    registries: dict[str, Mapping[str, Any]] = {
        "criterion": CRITERIA, "schedule": within_fit, "granularity": {name: name for name in GRANULARITIES},
        "model": MODELS, "dataset": {name: DATASETS[name] for name in DATASETS if name not in LAYOUTS},
    }  # fmt: skip
    return dict(registries[kind])
