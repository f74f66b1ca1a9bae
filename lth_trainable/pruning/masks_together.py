"""Masks of several networks of one shape, found in one pass on their device: those that `masks.prune` finds on a CPU.

This is for single weights, ranked by layer or all together, and masks that only shrink. On a GPU that spares each
network a copy of its scores to the CPU and the ranking there. On a CPU it is slower than `masks.prune`, which does not
sort all scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_TOGETHER = 1 << 22  # weights of a network; the ranking of a larger one costs little beside its training
_AT_ONCE = 1 << 23  # scores in one pass: a GPU needs about 40 bytes for each of them
_REMOVED = -(2**31)  # a key that is lower than those of all scores, -inf too


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The scores of a network, and how many of the lowest are to go.

    scores: (n,) float32, of all layers. was_kept: (n,) bool, the earlier mask. sizes: numbers of scores that are ranked
    together, those of each layer or of all. n_zeros: how many of each are to go, with those that the earlier mask has
    removed.
    """

    scores: Tensor
    was_kept: Tensor
    sizes: tuple[int, ...]
    n_zeros: tuple[int, ...]


Ranker = Callable[[Ranking], Tensor | None]  # gives the mask (n,) bool; None: the network's own pruner is to find it


def masks_together(rankings: Sequence[Ranking]) -> list[Tensor | None]:
    """The mask (n,) of each network, True: kept. None for a network with NaN among its scores.

    Networks with the same sizes are ranked in one pass, or in several if they are large.
    """
    by_sizes: dict[tuple[int, ...], list[int]] = {}
    for number, ranking in enumerate(rankings):
        by_sizes.setdefault(ranking.sizes, []).append(number)
    found: list[Tensor | None] = [None] * len(rankings)
    for sizes, numbers in by_sizes.items():
        at_once = max(1, _AT_ONCE // max(1, sum(sizes)))
        for start in range(0, len(numbers), at_once):
            part = numbers[start : start + at_once]
            for number, mask in zip(part, _masks([rankings[each] for each in part], sizes), strict=True):
                found[number] = mask
    return found


def _masks(rankings: Sequence[Ranking], sizes: Sequence[int]) -> list[Tensor | None]:
    scores = torch.stack([ranking.scores for ranking in rankings])
    was_kept = torch.stack([ranking.was_kept for ranking in rankings])
    n_zeros = torch.tensor([ranking.n_zeros for ranking in rankings], device=scores.device)
    has_nan = scores.isnan().any(1)
    bits = (scores + 0.0).view(torch.int32)  # no -0.0 is left, which is the same score as 0.0
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the scores
    keys.masked_fill_(~was_kept, _REMOVED)
    of_each = zip(keys.split(list(sizes), 1), n_zeros.split(1, 1), strict=True)
    masks = torch.cat([_without_lowest(key, zeros) for key, zeros in of_each], 1)
    return [None if bad else mask for mask, bad in zip(masks, has_nan.tolist(), strict=True)]


def _without_lowest(keys: Tensor, n_zeros: Tensor) -> Tensor:
    """Masks (k, n) that are False for the lowest keys of each row, ties by lowest index. n_zeros: (k, 1), how many."""
    if not keys.shape[1]:
        return torch.ones_like(keys, dtype=torch.bool)
    threshold = keys.sort(1).values.gather(1, (n_zeros - 1).clamp(min=0))
    is_tie, n_ties = keys == threshold, n_zeros - (keys < threshold).sum(1, keepdim=True)
    return (keys > threshold) | (is_tie & (is_tie.cumsum(1) > n_ties))
