"""The loaders of a trial, for data in memory and for those that a user's loaders make."""

from __future__ import annotations

from typing import Any

import torch
from fastai.data.core import DataLoaders

from lth_trainable.data.loaders import resident_loaders
from lth_trainable.data.splits import Dataset
from lth_trainable.data.streamed import StreamedDataset, StreamedLoader

AnyDataset = Dataset | StreamedDataset


def loaders_of(
    data: AnyDataset, *, batch_size: int, order_seed: int, device: Any = "cpu", augment: str = "none",
    channels_last: bool = False,
) -> DataLoaders:  # fmt: skip
    """fastai DataLoaders: `train` (shuffled by seed and epoch), `valid`, and the test split third.

    channels_last: lay images in memory out so; images that a user's loaders make are as these make them.
    """
    if isinstance(data, Dataset):
        return resident_loaders(
            data, batch_size=batch_size, order_seed=order_seed, device=device, augment=augment,
            channels_last=channels_last,
        )  # fmt: skip
    loaders = [
        StreamedLoader(data.train, batch_size, order_seed, device, augment=augment),
        StreamedLoader(data.valid, data.valid.evaluation_batch, None, device),
        StreamedLoader(data.test, data.test.evaluation_batch, None, device),
    ]
    return DataLoaders(*loaders, device=torch.device(device))
