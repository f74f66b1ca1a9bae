"""Shared parts of the contracts."""

from __future__ import annotations

import importlib
import itertools
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lth_trainable.pruning.masks import Mask
from lth_trainable.seeds import generator

LADDER = (Fraction(1, 5), Fraction(1, 2), Fraction(9, 10))


class ContractError(AssertionError):
    """Raised if a plug-in breaks a contract; the message is a sentence for its author."""


@dataclass(frozen=True)
class Contract:
    """One requirement: its name, and the check, whose docstring says what is required."""

    name: str
    check: Callable[[Any], None]


def as_contracts(*checks: Callable[[Any], None]) -> tuple[Contract, ...]:
    """A contract for each check, named after it."""
    return tuple(Contract(check.__name__.replace("_", " "), check) for check in checks)


def serialisable(plug_in: Any) -> None:
    """It pickles, a function by reference, so that workers find it, and its name can stand in JSON."""
    name = getattr(plug_in, "__qualname__", None)
    if name is not None and "<" in name:
        raise ContractError(f"{name} is defined within a function or as a lambda; define it at the top of a module")
    try:
        loaded = pickle.loads(pickle.dumps(plug_in))
    except Exception as error:
        raise ContractError(f"it cannot be pickled, so it cannot be sent to a worker: {error}") from error
    if name is None:  # a partial, or an object, of a module: workers find it by the name that was asked for
        return
    if loaded is not plug_in:
        raise ContractError("unpickling it gives another object; define it once, at the top of a module")
    reference = f"{plug_in.__module__}:{name}"
    if json.loads(json.dumps(reference)) != reference:
        raise ContractError(f"its name {reference!r} does not come back from JSON")
    if getattr(importlib.import_module(plug_in.__module__), name, None) is not plug_in:
        raise ContractError(f"importing {reference} does not return this object")


def check_shrinking(levels: list[dict[str, Mask]]) -> None:
    for before, after in itertools.pairwise(levels):
        for name in before:
            back = int(np.count_nonzero(after[name] & ~before[name]))
            if back:
                raise ContractError(f"{back} removed weights of {name} return although sparsity rises")


def equal_masks(first: list[dict[str, Mask]], second: list[dict[str, Mask]]) -> bool:
    return all(
        np.array_equal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in (a | b)
    )  # fmt: skip


def noise(*shape: int) -> Tensor:
    return torch.from_numpy(generator(0, "contract pictures").standard_normal(shape, dtype=np.float32))
