"""The experiments, one function each: docstring gives the claim, its source, the size and the cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lth_trainable.errors import unknown_name
from lth_trainable.spec import TrialSpec


def dense_as_long(ticket: TrialSpec) -> tuple[int, ...]:
    """Epochs of the dense baselines of a ticket: one, trained as long as a level (imp, omp) or as the whole fit."""
    return (ticket.epochs,)


def dense_as_long_and_to_first_prune(ticket: TrialSpec) -> tuple[int, ...]:
    """The dense network for the whole fit, and, as the tutorial has it, only as long as until the first prune."""
    return (ticket.epochs, *(prune.epoch for prune in ticket.prunes[:1] if prune.epoch))


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """An experiment: axes whose product gives the tickets, seeds, and what they are compared with, fixed beforehand.

    base: spec fields that differ from the defaults. axes: spec field -> values. seeds: replicates. baselines: epochs of
    the dense trials that belong to a ticket. endpoint: column of trials.parquet that decides. margin_pp: of matching,
    in percentage points. alpha: level of each test.
    """

    name: str
    claim: str
    base: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    axes: Mapping[str, tuple[Any, ...]]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    baselines: Callable[[TrialSpec], tuple[int, ...]] = dense_as_long
    endpoint: str = "test_accuracy"
    margin_pp: float = 0.5
    alpha: float = 0.05


def digits() -> Sweep:
    """Tickets found by iterative magnitude pruning match the dense network, down to a few per cent of its weights.

    Source: Frankle & Carbin, arXiv 1803.03635, sec. 2, on scikit-learn's digits. LeNet-300-100, Adam 1.2e-3, batch 60,
    40 % a level, 20 epochs a level, rewinding to epochs 0 and 1, eight seeds. 48 tickets and 8 dense trials, 4,552
    epochs, of which 1,720 are distinct and trained: half a minute on two cores.
    """
    return Sweep(
        name="digits",
        claim="Do tickets found by iterative magnitude pruning match the dense network?",
        axes={"target_sparsity_pct": (64.0, 87.04, 92.22), "rewind_epoch": (0, 1)},
        seeds=tuple(range(8)),
        margin_pp=1.0,
    )


def digits_tutorial() -> Sweep:
    """Three prunes with resets within one fit of 20 epochs, compared with dense training of 20 epochs and of 5.

    Source: the fasterai tutorial (iterative, start_pct 0.25, 3 steps), on scikit-learn's digits. 40 tickets and 10
    dense trials, 925 epochs: a quarter of a minute on two cores.
    """
    return Sweep(
        name="digits_tutorial",
        claim="Do the tutorial's tickets, pruned and reset within one fit, beat the dense network?",
        base={"schedule": "iterative", "start_pct": 0.25},
        axes={"target_sparsity_pct": (50.0, 80.0, 90.0, 95.0), "rewind_epoch": (0, 1)},
        baselines=dense_as_long_and_to_first_prune,
        margin_pp=1.0,
    )


RECIPES: dict[str, Callable[[], Sweep]] = {"digits": digits, "digits_tutorial": digits_tutorial}


def find_recipe(name: str) -> Sweep:
    """The sweep of a recipe. Raises `UserError` with the valid names."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
