"""Which images of a data set its split seeds validate and test on, so that networks of several splits can be compared
image by image. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lth_trainable.data.splits import split_indices

DRAWN = ("digits", "pets")  # data sets without splits of their own: all three are drawn by the split seed
OWN_TEST = ("mnist", "cifar10")  # data sets with a test split of their own, the same for every split seed


@dataclass(frozen=True, kw_only=True)
class Held:
    """The images of a validation or test split, by their numbers among `n` images that every split seed draws from."""

    images: npt.NDArray[np.int64]
    n: int


def held_by(dataset: str, split: str, sizes: tuple[int, int, int], seed: int) -> Held | None:
    """The images of the "valid" or "test" split of a split seed, in their order; None if they are not known.

    sizes: of training, validation and test split. Not known are those of folders and of users' own data sets, which may
    have splits of their own or not.
    """
    if split == "test" and dataset in OWN_TEST:
        return Held(images=np.arange(sizes[2]), n=sizes[2])
    if dataset not in DRAWN:
        return None
    return Held(images=split_indices(sizes, seed)[("train", "valid", "test").index(split)], n=sum(sizes))
