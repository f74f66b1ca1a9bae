"""Data sets as users write them: arrays, torch Datasets and fastai DataLoaders, on few and small images.

The number of loader workers is in the environment variable WORKERS, since it is no part of a trial.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.transforms import Normalize
from fastai.vision.augment import RandomCrop, aug_transforms
from fastai.vision.data import ImageDataLoaders
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler
from torchvision.datasets import ImageFolder

N = 60


def images(n: int = N, side: int = 10) -> np.ndarray[Any, Any]:
    """Grey images (n, side, side), uint8: of odd numbers the right half is bright, of even ones the left half."""
    x = np.random.default_rng(0).integers(0, 120, (n, side, side), dtype=np.uint8)
    x[0::2, :, : side // 2] += 100
    x[1::2, :, side // 2 :] += 100
    return x


def labels(n: int = N) -> np.ndarray[Any, Any]:
    return np.arange(n) % 2


def write_folder(folder: Path, n: int = N) -> Path:
    for i, pixels in enumerate(images(n, 12)):
        file = folder / ("left", "right")[i % 2] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert("RGB").save(file)
    return folder


def arrays(root: Path | None, split_seed: int) -> Any:
    return images(), labels()


def named_arrays(root: Path | None, split_seed: int) -> Any:
    colour = np.repeat(images()[..., None], 3, -1).astype(np.float64) / 255
    names = np.array(["left", "right"])[labels()]
    return {"train": (colour[:40], names[:40]), "test": (colour[40:], names[40:])}


class Items(Dataset[Any]):
    """Images with an optional transform."""

    def __init__(self, transform: Any = None, n: int = N) -> None:
        self.x, self.y, self.transform = torch.from_numpy(images(n)).unsqueeze(1) / 255, labels(n), transform

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        x = self.x[index]
        return (x if self.transform is None else self.transform(x)), int(self.y[index])


def noisy(x: torch.Tensor) -> torch.Tensor:
    """Draws from all three global streams."""
    return x + 0.05 * torch.randn_like(x) + 0.05 * np.random.rand() + 0.05 * random.random()  # noqa: NPY002


class OwnStream:
    """Draws from a stream of its own, which nobody else can seed."""

    def __init__(self) -> None:
        self._own = np.random.default_rng()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x + self._own.random()


def torch_dataset(root: Path | None, split_seed: int) -> Any:
    return Items()


def random_torch_dataset(root: Path | None, split_seed: int) -> Any:
    return Items(noisy)


def workers() -> int:
    return int(os.environ.get("WORKERS", "0"))


def fastai_loaders(root: Path | None, split_seed: int) -> Any:
    """Files, a crop of items, augmentation of batches, and normalisation by a batch."""
    return ImageDataLoaders.from_folder(
        root, valid_pct=0.3, seed=split_seed, item_tfms=RandomCrop(8), num_workers=workers(), bs=16,
        batch_tfms=[*aug_transforms(size=8, min_scale=0.9, max_warp=0.1), Normalize()],
    )  # fmt: skip


def torch_loaders(root: Path | None, split_seed: int) -> Any:
    """torch's own loaders in fastai's DataLoaders, with a noisy transform."""
    train = DataLoader(Items(noisy), batch_size=16, shuffle=True, num_workers=workers())
    held = [DataLoader(Items(n=n), batch_size=16, num_workers=workers()) for n in (16, 18)]
    return DataLoaders(train, *held)


def loaders_of(train: Any) -> Any:
    return DataLoaders(train, DataLoader(Items(), batch_size=16))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from Items()


def endless(root: Path | None, split_seed: int) -> Any:
    return loaders_of(DataLoader(Endless(), batch_size=16))


def weighted(root: Path | None, split_seed: int) -> Any:
    return loaders_of(DataLoader(Items(), batch_size=16, sampler=WeightedRandomSampler([1.0] * N, N)))


def weighted_fastai(root: Path | None, split_seed: int) -> Any:
    from fastai.callback.data import WeightedDL

    return loaders_of(WeightedDL(Items(), bs=16, wgts=[1.0] * N, num_workers=0))


def own_stream(root: Path | None, split_seed: int) -> Any:
    return loaders_of(DataLoader(Items(OwnStream()), batch_size=16, shuffle=True))


def regression(root: Path | None, split_seed: int) -> Any:
    return loaders_of(DataLoader(TensorDataset(torch.rand(9, 1, 4, 4), torch.rand(9)), batch_size=3, shuffle=True))


def bytes_as_images(root: Path | None, split_seed: int) -> Any:
    x = torch.zeros(9, 1, 4, 4, dtype=torch.uint8)
    return loaders_of(DataLoader(TensorDataset(x, torch.arange(9) % 2), batch_size=3, shuffle=True))


def _as_tensor(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image, np.float32) / 255)[None]


def _open(path: str) -> Image.Image:
    return Image.open(path).convert("L")


def _open_dark(path: str) -> Image.Image:
    return _open(path).point(lambda value: value // 2)


class _Scaled(ImageFolder):
    """Images of a folder, times a number."""

    def __init__(self, root: Path, factor: int) -> None:
        super().__init__(str(root), _as_tensor, loader=_open)
        self.factor = factor

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return image * self.factor, label


def read_plainly(root: Path, split_seed: int) -> Any:
    return loaders_of_folder(ImageFolder(str(root), _as_tensor, loader=_open))


def read_darkly(root: Path, split_seed: int) -> Any:
    return loaders_of_folder(ImageFolder(str(root), _as_tensor, loader=_open_dark))


def scaled_by_one(root: Path, split_seed: int) -> Any:
    return loaders_of_folder(_Scaled(root, 1))


def scaled_by_two(root: Path, split_seed: int) -> Any:
    return loaders_of_folder(_Scaled(root, 2))


def loaders_of_folder(data: Any) -> Any:
    return DataLoaders(DataLoader(data, batch_size=16, shuffle=True), DataLoader(data, batch_size=16))


def one_loader(root: Path | None, split_seed: int) -> Any:
    return DataLoaders(DataLoader(Items(), batch_size=16))


def mixed_sizes(root: Path | None, split_seed: int) -> Any:
    return Items(lambda x: x[:, : 5 + int(x.sum()) % 3])


def nothing(root: Path | None, split_seed: int) -> Any:
    return None


def fails(root: Path | None, split_seed: int) -> Any:
    raise KeyError("no such\ncolumn")


def floats_as_labels(root: Path | None, split_seed: int) -> Any:
    return images(), labels() / 2


def not_finite(root: Path | None, split_seed: int) -> Any:
    return np.full((30, 4, 4), np.nan), np.arange(30) % 2


def too_many_labels(root: Path | None, split_seed: int) -> Any:
    return images(), labels(59)


def strange_names(root: Path | None, split_seed: int) -> Any:
    return {"training": (images(), labels())}
