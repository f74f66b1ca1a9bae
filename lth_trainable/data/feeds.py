"""What makes items and batches of data that are not kept in memory: a loader of fastai or torch, without its order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from fastai.torch_core import to_device
from fastcore.foundation import L

from lth_trainable.errors import bad_value


class Feed(Protocol):
    """What makes items and batches: a user's loader, without its order."""

    num_workers: int
    batch_size: int

    def begin(self, seed: int) -> None:
        """Called before a pass."""

    def in_worker(self) -> None:
        """Called once in each worker process."""

    def item(self, index: int) -> Any:
        """The item of an index in the data, with the transforms of items."""

    def name_of(self, index: int) -> str:
        """What the item is called for people: its file, if there is one, or its number."""

    def collate(self, items: list[Any]) -> Any:
        """The batch of these items, on the CPU."""

    def finish(self, batch: Any, device: torch.device) -> Any:
        """The batch on the device, with the transforms of batches."""


@dataclass(kw_only=True)
class FastaiFeed:
    """A fastai DataLoader."""

    loader: Any
    num_workers: int
    batch_size: int

    def begin(self, seed: int) -> None:
        self.loader.rng.seed(seed)
        self.loader.before_iter()

    def in_worker(self) -> None:
        self.loader.wif()

    def item(self, index: int) -> Any:
        found = self.loader.do_item(index)
        if found is None:
            raise bad_value("dataset", f"item {index} skipped by a transform", "every item", "leave it out of the data")
        return found

    def name_of(self, index: int) -> str:
        return name_of_item(self.loader.dataset, index)

    def collate(self, items: list[Any]) -> Any:
        return self.loader.do_batch(items)

    def finish(self, batch: Any, device: torch.device) -> Any:
        if self.loader.device != device:
            self.loader.to(device)
        return self.loader.after_batch(to_device(batch, device))


@dataclass(kw_only=True)
class TorchFeed:
    """A torch DataLoader."""

    loader: Any
    num_workers: int
    batch_size: int

    def begin(self, seed: int) -> None:
        pass

    def in_worker(self) -> None:
        if self.loader.worker_init_fn is not None:
            info = torch.utils.data.get_worker_info()
            self.loader.worker_init_fn(0 if info is None else info.id)

    def item(self, index: int) -> Any:
        return self.loader.dataset[index]

    def name_of(self, index: int) -> str:
        return name_of_item(self.loader.dataset, index)

    def collate(self, items: list[Any]) -> Any:
        return self.loader.collate_fn(items)

    def finish(self, batch: Any, device: torch.device) -> Any:
        return to_device(batch, device)


def name_of_item(dataset: Any, index: int) -> str:
    """The file of an item, where its data set lists files as fastai's or torchvision's do; else its number."""
    for listed in (getattr(dataset, "items", None), getattr(dataset, "samples", None)):
        if isinstance(listed, list | tuple | L):
            found = listed[index]
            file = found[0] if isinstance(found, tuple) else found
            if isinstance(file, str | Path):
                return str(file)
    return f"item {index}"
