"""How much two masks, or the signs of two sets of weights, have in common, and how much of that is due to chance.

Arrays are given by layer name, with the same shapes on both sides. Chance means two masks that keep as many weights in
each layer as these do, chosen uniformly and independently. All counts add up over layers, so the same formulas hold for
one layer and for all layers together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lth_trainable.errors import UserError, bad_value

Mask = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What two masks share, in one layer or in all. Counts are numbers of weights.

    expected, variance: of `both` under chance, the hypergeometric distribution given the kept counts k1, k2 of a layer
    of n: k1 k2 / n and k1 k2 (n - k1) (n - k2) / (n^2 (n - 1)); layers are independent, so both add up. nested: one
    mask lies completely within the other.
    """

    n: int
    kept_a: int
    kept_b: int
    both: int
    expected: float
    variance: float
    nested: bool

    @property
    def iou(self) -> float | None:
        """Intersection over union, 0 to 1; None if both masks are empty."""
        union = self.kept_a + self.kept_b - self.both
        return self.both / union if union else None

    @property
    def chance_iou(self) -> float | None:
        """The `iou` expected by chance: sum n p q / sum n (p + q - p q), with the densities p, q of each layer of n.

        This is a ratio of expectations, which the expected ratio approaches as layers grow. None if both masks are
        empty.
        """
        union = self.kept_a + self.kept_b - self.expected
        return self.expected / union if union else None

    @property
    def z(self) -> float | None:
        """(both - expected) / sqrt(variance): how far the intersection is from chance, in standard deviations.

        None for nested masks, and if chance leaves no choice (each layer of one of the masks is full or empty).
        """
        return None if self.nested or not self.variance else (self.both - self.expected) / math.sqrt(self.variance)


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """`Overlap` of each layer and of all layers together."""

    layers: Mapping[str, Overlap]
    overall: Overlap


@dataclass(frozen=True, kw_only=True)
class SignAgreement:
    """How often the signs of two sets of weights agree, over the kept weights.

    agree: both are positive or both negative. disagree: one is positive, one negative. zero: one is exactly 0 (or -0)
    and so has no sign; these are in no fraction.
    """

    agree: int
    disagree: int
    zero: int

    @property
    def fraction(self) -> float | None:
        """agree / (agree + disagree), 0 to 1; None if no weights have signs. By chance 0.5 for symmetric weights."""
        signed = self.agree + self.disagree
        return self.agree / signed if signed else None


@dataclass(frozen=True, kw_only=True)
class SignAgreements:
    """`SignAgreement` of each layer and of all layers together."""

    layers: Mapping[str, SignAgreement]
    overall: SignAgreement


def overlap(a: Mapping[str, Mask], b: Mapping[str, Mask]) -> Overlaps:
    """Compare two masks (True: kept) with each other and with chance.

    If one mask lies within the other in every layer, such as two levels of one chain, the masks are flagged `nested`
    and get no z in any layer: their overlap is by construction. A layer that is full in one mask necessarily contains
    the other, so a single layer is never called nested on its own. Equal masks are nested too. The masks alone cannot
    tell chance from construction; by chance, nesting has probability prod 1 / C(n, k) for equal counts, which is
    negligible for any layer that is not tiny. Raises `UserError` unless both are Boolean and of the same shapes.
    """
    _check_alike(a, b)
    for name, mask in [*a.items(), *b.items()]:
        if mask.dtype != np.bool_:
            raise bad_value(f"mask of {name}", str(mask.dtype), "a Boolean array", "True is kept")
    count = np.count_nonzero
    return overlap_of_counts(
        {name: (a[name].size, int(count(a[name])), int(count(b[name])), int(count(a[name] & b[name]))) for name in a}
    )


def overlap_of_counts(layers: Mapping[str, Sequence[int]]) -> Overlaps:
    """As `overlap`, from four counts of each layer: its weights, and those that a keeps, b keeps, both keep."""
    nested = all(k1 == both for _, k1, _, both in layers.values()) or all(
        k2 == both for _, _, k2, both in layers.values()
    )
    found = {name: _layer_overlap(*counts, nested=nested) for name, counts in layers.items()}
    return Overlaps(layers=found, overall=_total_overlap(found.values(), nested))


def sign_agreement(a: Mapping[str, Weights], b: Mapping[str, Weights], mask: Mapping[str, Mask]) -> SignAgreements:
    """Whether the kept weights (`mask` True) have the same sign in `a` and `b`, such as initial and final weights.

    The signs of the initial weights are what a supermask needs (Zhou et al., arXiv 1905.01067). Raises
    `UserError` for other layers or shapes than the mask's, and for NaN among the kept weights.
    """
    _check_alike(a, b)
    _check_alike(a, mask)
    layers = {name: _layer_agreement(name, a[name][mask[name]], b[name][mask[name]]) for name in mask}
    total = SignAgreement(
        agree=sum(layer.agree for layer in layers.values()),
        disagree=sum(layer.disagree for layer in layers.values()),
        zero=sum(layer.zero for layer in layers.values()),
    )
    return SignAgreements(layers=layers, overall=total)


def _layer_overlap(n: int, k1: int, k2: int, both: int, *, nested: bool) -> Overlap:
    return Overlap(
        n=n,
        kept_a=k1,
        kept_b=k2,
        both=both,
        expected=k1 * k2 / n if n else 0.0,
        variance=k1 * k2 * (n - k1) * (n - k2) / (n * n * (n - 1)) if n > 1 else 0.0,
        nested=nested,
    )


def _total_overlap(layers: Iterable[Overlap], nested: bool) -> Overlap:
    parts = list(layers)
    return Overlap(
        n=sum(part.n for part in parts),
        kept_a=sum(part.kept_a for part in parts),
        kept_b=sum(part.kept_b for part in parts),
        both=sum(part.both for part in parts),
        expected=math.fsum(part.expected for part in parts),
        variance=math.fsum(part.variance for part in parts),
        nested=nested,
    )


def _layer_agreement(name: str, a: Weights, b: Weights) -> SignAgreement:
    if np.isnan(a).any() or np.isnan(b).any():
        raise UserError(f"{name}: NaN among the kept weights; the weights have diverged, so they have no signs")
    zero = int(np.count_nonzero((a == 0) | (b == 0)))
    agree = int(np.count_nonzero(((a > 0) & (b > 0)) | ((a < 0) & (b < 0))))
    return SignAgreement(agree=agree, disagree=a.size - agree - zero, zero=zero)


def _check_alike(a: Mapping[str, npt.NDArray[Any]], b: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise `UserError` unless both have the same layers, in the same shapes."""
    if set(a) != set(b):
        raise bad_value("layers", sorted(b), f"those of the other: {', '.join(sorted(a))}")
    for name in a:
        if a[name].shape != b[name].shape:
            raise bad_value(f"shape of {name}", b[name].shape, f"that of the other: {a[name].shape}")
