"""Variance components of a two-way layout with random effects: initialisation seeds crossed with data orders. Pure.

    y_ij = mean + init_i + order_j + rest_ij,    i = 1..I, j = 1..J, one trial a cell.

Mean squares of the analysis of variance are set equal to their expectations (method of moments; Searle, Casella &
McCulloch 1992, Variance Components, sec. 4.3):

    E MS_init = v_rest + J v_init,    E MS_order = v_rest + I v_order,    E MS_rest = v_rest.

With one trial a cell the rest is what initialisation and order do together, and what neither determines (on a GPU).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Components:
    """Variances in the squared unit of the values. Estimates are unbiased, so they may be negative where they are 0."""

    init: float
    order: float
    both: float

    @property
    def shares(self) -> tuple[float | None, float | None, float | None]:
        """Fractions of the sum, with negative estimates as 0; None if all values are equal."""
        found = [max(0.0, value) for value in (self.init, self.order, self.both)]
        total = sum(found)
        init, order, both = (value / total if total else None for value in found)
        return init, order, both


def variance_components(values: npt.NDArray[np.float64]) -> Components:
    """The components of values of shape (initialisations, orders), both at least 2."""
    n_init, n_order = values.shape
    assert n_init > 1 and n_order > 1, "a variance needs two values"
    mean, of_init, of_order = values.mean(), values.mean(axis=1), values.mean(axis=0)
    rest = values - of_init[:, None] - of_order[None, :] + mean
    ms_init = n_order * np.sum((of_init - mean) ** 2) / (n_init - 1)
    ms_order = n_init * np.sum((of_order - mean) ** 2) / (n_order - 1)
    ms_rest = np.sum(rest**2) / ((n_init - 1) * (n_order - 1))
    return Components(
        init=float((ms_init - ms_rest) / n_order), order=float((ms_order - ms_rest) / n_init), both=float(ms_rest)
    )
