"""What fastai asks of a loader to show batches, results and losses, and to look up single items."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from fastai.data.transforms import Category, CategoryMap
from fastai.torch_core import TensorCategory, TensorImage
from fastcore.foundation import L
from torch import Tensor

MAX_N = 9  # images that are shown, as in fastai


class Items:
    """The items of a data set by their numbers, each an image with its label, as `Interpretation` looks them up."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    @property
    def iloc(self) -> Items:
        return self

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, Tensor | Sequence):
            return [self[int(one)] for one in index]
        return self.x[index], self.y[index]

    def __len__(self) -> int:
        return len(self.x)


class ShowsImages(ABC):
    """Shows batches (images, class numbers) of a loader with `n_inp` and `dataset`, by fastai's own drawing functions.

    Images are stretched so that their smallest value is black and their largest white. Of images that have neither one
    nor three channels, the first is shown.
    """

    dataset: Any
    n_inp: int

    @property
    def vocab(self) -> CategoryMap:
        """The class names, as fastai has them; a tuple would mean one vocabulary for each output."""
        return CategoryMap(list(self.dataset.vocab), sort=False)

    def decode(self, b: tuple[Tensor, ...]) -> tuple[Any, ...]:
        """A batch with the types of fastai: images in [0, 1], and class numbers (of scores, the largest)."""
        x, *labels = (tensor.detach().cpu() for tensor in b)
        flat = x.flatten(1).float()
        low, high = flat.min(1).values, flat.max(1).values
        spread = torch.where(high > low, high - low, torch.ones_like(high))
        shape = (-1, *[1] * (x.ndim - 1))
        shown = (x.float() - low.reshape(shape)) / spread.reshape(shape)
        numbers = [y.argmax(1) if y.is_floating_point() else y for y in labels]
        images = shown if x.shape[1] in (1, 3) else shown[:, :1]
        return TensorImage(images), *(TensorCategory(y) for y in numbers)

    def decode_batch(self, b: tuple[Tensor, ...], max_n: int = MAX_N, full: bool = True) -> L:
        """Pairs of an image and the names of its classes, for the first `max_n` items."""
        x, *labels = self.decode(b)
        names = [[Category(self.dataset.vocab[int(one)]) for one in y[:max_n]] for y in labels]
        return L((image, *(column[index] for column in names)) for index, image in enumerate(x[:max_n]))

    def show_batch(
        self, b: Any = None, max_n: int = MAX_N, ctxs: Any = None, show: bool = True, unique: bool = False, **more: Any
    ) -> Any:
        """Draw images with their labels; unique: one image, as its augmentation changes it from epoch to epoch."""
        from fastai.vision.data import show_batch

        if b is None:
            b = self._versions_of_one(max_n) if unique else self.one_batch()
        shown = self._pre_show_batch(b, max_n)
        return show_batch(*shown, ctxs=ctxs, max_n=max_n, **more) if show else shown

    def show_results(
        self, b: Any, out: Any, max_n: int = MAX_N, ctxs: Any = None, show: bool = True, **more: Any
    ) -> Any:
        """Draw images with their labels and what the network takes them for, green if that is right, else red."""
        from fastai.vision.learner import show_results

        x, y, items = self._pre_show_batch(b, max_n)
        *_, outs = self._pre_show_batch((*b[: self.n_inp], *(out if isinstance(out, tuple | list) else (out,))), max_n)
        shown = x, y, items, outs.itemgot(slice(self.n_inp, None))
        return show_results(*shown, ctxs=ctxs, max_n=max_n, **more) if show else shown

    def _pre_show_batch(self, b: Any, max_n: int = MAX_N) -> tuple[Any, Any, L]:
        """The decoded batch and its items. fastai's `plot_top_losses` calls it by this name."""
        import fastai.vision.learner  # noqa: F401 (registers the drawing functions for images)

        x, *labels = self.decode(tuple(b))
        return x, labels[0] if labels else None, self.decode_batch(tuple(b), max_n)

    @abstractmethod
    def one_batch(self) -> Any:
        """The first batch of the next pass."""

    @abstractmethod
    def _versions_of_one(self, n: int) -> Any:
        """The batch of one image, as it is in the next `n` epochs."""
