"""DataLoaders that go wrong in the middle of training: the 400th item that a process reads fails, or never comes.

A check or a plan reads fewer items, so it finds nothing.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import torch
from fastai.data.core import DataLoaders
from torch.utils.data import DataLoader

from tests.own_data import Items

SOUND = 400  # items that a process reads before it goes wrong
_read = itertools.count()


class _Once:
    """A transform that does its deed at one item of each process."""

    def __init__(self, deed: Any) -> None:
        self.deed = deed

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if next(_read) == SOUND:
            self.deed()
        return x


def _corrupt() -> None:
    raise OSError("image file is truncated (7 bytes not processed)")


def _hang() -> None:
    time.sleep(3600)


def _loaders(deed: Any) -> Any:
    train = DataLoader(Items(_Once(deed)), batch_size=16, shuffle=True)
    return DataLoaders(train, *(DataLoader(Items(n=n), batch_size=16) for n in (16, 18)))


def corrupt(root: Path | None, split_seed: int) -> Any:
    return _loaders(_corrupt)


def hanging(root: Path | None, split_seed: int) -> Any:
    return _loaders(_hang)
