"""Masks of untrained networks: which weights each criterion keeps, and signed constants."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from lth_trainable.errors import UserError
from lth_trainable.models.networks import build
from lth_trainable.pruning.criteria import CRITERIA, Weights
from lth_trainable.pruning.masks import prune
from lth_trainable.training.supermasks import Ranking, kinds_of_layers, treated

INITIAL = {"w": torch.tensor([[0.5, -0.4, 0.3], [-0.2, 0.1, 0.6]])}
FINAL = {"w": torch.tensor([[0.9, 0.7, 0.1], [-0.8, -0.3, 0.6]])}


def kept(criterion: str, n: int) -> list[float]:
    """The final weights that a mask of `n` weights keeps."""
    mask = Ranking(criterion, ["w"], INITIAL, FINAL, 0).masks({"w": 1 - Fraction(n, 6)})["w"]
    return sorted(round(float(value), 3) for value in FINAL["w"][mask])


@pytest.mark.parametrize(
    ("criterion", "n", "expected"),
    [
        ("large_final", 2, [-0.8, 0.9]), ("small_final", 2, [-0.3, 0.1]), ("large_init", 2, [0.6, 0.9]),
        ("small_init", 2, [-0.8, -0.3]), ("large_init_large_final", 2, [0.6, 0.9]), ("movement", 1, [0.7]),
        ("magnitude_increase", 2, [-0.8, 0.9]), ("large_final_same_sign", 3, [-0.8, 0.6, 0.9]),
        ("large_final_diff_sign", 2, [-0.3, 0.7]), ("magnitude_increase_same_sign", 2, [-0.8, 0.9]),
        ("magnitude_increase_diff_sign", 2, [-0.3, 0.7]), ("small_init_small_final", 1, [-0.3]),
    ],
)  # fmt: skip
def test_the_weights_that_a_criterion_keeps(criterion: str, n: int, expected: list[float]) -> None:
    assert kept(criterion, n) == expected


@pytest.mark.parametrize("criterion", ["large_final", "large_final_same_sign", "magnitude_increase_diff_sign"])
def test_masks_are_those_of_a_prune_with_ties_by_index(criterion: str) -> None:
    stream = torch.Generator().manual_seed(0)
    initial, final = ({"w": torch.randn(40, 7, generator=stream).round(decimals=1)} for _ in range(2))
    ranking = Ranking(criterion, ["w"], initial, final, 0)
    scores = CRITERIA[criterion](Weights(now=final["w"], initial=initial["w"], previous=final["w"], draw=torch.zeros))
    for sparsity in (Fraction(1, 10), Fraction(1, 2), Fraction(9, 10)):
        expected = prune({"w": scores.numpy()}, sparsity)["w"]
        assert np.array_equal(ranking.masks({"w": sparsity})["w"].numpy(), expected)


def test_random_masks_are_a_function_of_the_seed() -> None:
    masks = [Ranking("random", ["w"], INITIAL, FINAL, seed).masks({"w": Fraction(1, 2)})["w"] for seed in (0, 0, 1, 2)]
    assert masks[0].equal(masks[1]) and not all(mask.equal(masks[0]) for mask in masks[2:])


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="found NaN among the scores of large_final"):
        Ranking("large_final", ["w"], INITIAL, {"w": FINAL["w"] / torch.zeros(()) * 0}, 0)


def test_signed_constants_are_the_sign_times_the_layers_deviation() -> None:
    weights = {"w": torch.tensor([3.0, -1.0, 0.0, 2.0])}
    found = treated(weights, ["w"])
    assert found["initial"]["w"].equal(weights["w"])
    deviation = weights["w"].double().std(correction=0).float()
    assert found["signed_constants"]["w"].equal(torch.tensor([1.0, -1.0, 0.0, 1.0]) * deviation)


def test_the_output_layer_is_the_last_one() -> None:
    assert list(kinds_of_layers(build("conv_2", (3, 8, 8), 10)).values()) == [
        "convolution", "convolution", "linear", "linear", "output"
    ]  # fmt: skip
    assert list(kinds_of_layers(build("lenet_300_100", (1, 8, 8), 10)).values()) == ["linear", "linear", "output"]
