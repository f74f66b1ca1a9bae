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
from lth_trainable.errors import UserError, words_of
from lth_trainable.models.networks import MODELS
from lth_trainable.pruning.criteria import CRITERIA
from lth_trainable.pruning.granularity import GRANULARITIES
from lth_trainable.pruning.schedules import SCHEDULES

__all__ = ["CONTRACTS", "Contract", "ContractError", "entries", "registry_of", "serialisable", "what_breaks"]

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
    except (ContractError, UserError) as error:
        return str(error)
    except (Exception, SystemExit) as error:
        return f"it raises {type(error).__name__}: {words_of(error)}"
    return None


def registry_of(kind: str) -> Mapping[str, Any]:
    """All built-in plug-ins of one kind by name."""
    registries: dict[str, Mapping[str, Any]] = {
        "criterion": CRITERIA, "granularity": {name: name for name in GRANULARITIES}, "model": MODELS,
        "dataset": DATASETS,
        "schedule": {name: rule.function for name, rule in SCHEDULES.items() if rule.function is not None},
    }  # fmt: skip
    return registries[kind]


def entries(kind: str) -> dict[str, Any]:
    """All built-in plug-ins of one kind by name, for the contract tests; without data sets that read files."""
    return {name: entry for name, entry in registry_of(kind).items() if kind != "dataset" or name not in IN_FILES}
