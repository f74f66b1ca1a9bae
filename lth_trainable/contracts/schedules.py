"""The contracts of a schedule within one fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from lth_trainable.contracts.common import ContractError, as_contracts, serialisable
from lth_trainable.pruning.schedules import Schedule

EPOCHS = (4, 7, 20, 33)
TARGETS = (Fraction(1, 2), Fraction(9, 10))


def values_in_range(function: Callable[..., Any]) -> None:
    """f(start, end, pos) is a finite number between 0 and `end` for every pos in [0, 1]."""
    for end, position in itertools.product(TARGETS, _positions()):
        value = Schedule(function).value(end, position)
        if not -1e-6 <= float(value) <= float(end) + 1e-6:
            raise ContractError(
                f"f(0, {float(end)}, {float(position):g}) is {float(value):g}, outside [0, {float(end)}]"
            )


def reaches_target(function: Callable[..., Any]) -> None:
    """In every fit that is long enough it reaches the target exactly, with at most one prune in each epoch."""
    for n_epochs, target in itertools.product(EPOCHS, TARGETS):
        events = Schedule(function).prunes(n_epochs, target)
        epochs = [event.epoch for event in events]
        if epochs != sorted(set(epochs)) or not 0 <= epochs[0] <= epochs[-1] < n_epochs:
            raise ContractError(f"in {n_epochs} epochs it prunes at {epochs}; expected one an epoch at most, in order")
        if max(event.sparsity for event in events) != target:
            raise ContractError(f"in {n_epochs} epochs it never reaches the target of {float(100 * target):g} %")


def rises(function: Callable[..., Any]) -> None:
    """Sparsity rises to its target, so that masks only shrink; if the schedule `peaks`, it may fall afterwards."""
    peaks = Schedule(function).rule.peaks
    for n_epochs, target in itertools.product(EPOCHS, TARGETS):
        values = [event.sparsity for event in Schedule(function).prunes(n_epochs, target)]
        top = values.index(max(values)) + 1 if peaks else len(values)
        if values[:top] != sorted(values[:top]) or values[top:] != sorted(values[top:], reverse=True):
            shown = ", ".join(f"{float(100 * value):.2f}" for value in values)
            raise ContractError(f"in {n_epochs} epochs its sparsities ({shown} %) do not rise to the target")


def same_twice(function: Callable[..., Any]) -> None:
    """Called again, in any order, it gives the same values."""
    positions, schedule = _positions(), Schedule(function)
    first = [schedule.value(TARGETS[1], position) for position in positions]
    second = [schedule.value(TARGETS[1], position) for position in reversed(positions)][::-1]
    if first != second:
        raise ContractError("called again, it gives other values; a schedule may depend on its arguments only")


def resumes_anywhere(function: Callable[..., Any]) -> None:
    """The prunes left after any epoch do not depend on where the fit started."""
    whole = Schedule(function).prunes(EPOCHS[2], TARGETS[0])
    for epoch in range(EPOCHS[2]):
        left = [event for event in Schedule(function).prunes(EPOCHS[2], TARGETS[0]) if event.epoch >= epoch]
        if left != [event for event in whole if event.epoch >= epoch]:
            raise ContractError(f"a fit continued at epoch {epoch} would prune differently; it must not keep state")


def _positions() -> list[Fraction]:
    return [Fraction(i, 60) for i in range(61)]


CONTRACTS = as_contracts(values_in_range, reaches_target, rises, same_twice, resumes_anywhere, serialisable)
