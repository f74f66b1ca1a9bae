from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from lth_trainable.data.augment import AUGMENTATIONS, Draws
from lth_trainable.errors import UserError
from lth_trainable.seeds import generator

N = 200
SHAPES = [(1, 8), (1, 28), (3, 32), (3, 64)]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


def images(n: int, channels: int, side: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(n, channels, side, side)).astype(np.float32))


def draw(name: str, side: int, n: int = N, epoch: int = 0) -> Draws:
    return AUGMENTATIONS[name].draw(n, side, generator(0, "augment", epoch))


def naive(image: Tensor, flip: bool, dy: int, dx: int, reach: int) -> Tensor:
    """One picture (c, h, w) as He et al. say it: mirror, pad, crop."""
    side = image.shape[-1]
    mirrored = image.flip(-1) if flip else image
    padded = pad(mirrored[None], (reach,) * 4, mode="reflect")[0] if reach else mirrored
    return padded[:, reach + dy : reach + dy + side, reach + dx : reach + dx + side]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("channels", "side"), SHAPES)
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_picture_is_what_the_naive_reference_makes_of_it_alone(
    name: str, channels: int, side: int, device: str
) -> None:
    x, draws = images(N, channels, side), draw(name, side)
    index = torch.from_numpy(np.random.default_rng(1).permutation(N)[:60])
    batch = x[index].to(device)
    before = batch.clone()
    result = draws.to(device)(batch, index.to(device))
    expected = torch.stack(
        [naive(x[i], bool(draws.flip[i]), int(draws.dy[i]), int(draws.dx[i]), draws.reach) for i in index.tolist()]
    )
    assert torch.equal(result.cpu(), expected)
    assert torch.equal(batch, before) and result.data_ptr() != batch.data_ptr()
    assert result.is_contiguous() and result.dtype == torch.float32 and result.shape == batch.shape


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_one_stream_one_result_however_batches_are_cut(name: str) -> None:
    x, index = images(N, 3, 32), torch.from_numpy(np.random.default_rng(1).permutation(N))
    whole = draw(name, 32)(x[index], index)
    for size in (1, 7, 64):
        assert torch.equal(torch.cat([draw(name, 32)(x[part], part) for part in index.split(size)]), whole)
    assert torch.equal(draw(name, 32)(x, torch.arange(N))[index], whole)
    assert not torch.equal(draw(name, 32, epoch=1)(x[index], index), whole)


def test_half_are_flipped_and_no_more_than_flipped() -> None:
    draws = draw("flip", 8, n=20_000)
    assert abs(draws.flip.mean() - 0.5) < 0.015 and draws.flip.dtype == bool
    assert not draws.dy.any() and not draws.dx.any()
    x = images(20_000, 1, 8)
    assert torch.equal(
        draws(x, torch.arange(20_000)), torch.where(torch.from_numpy(draws.flip)[:, None, None, None], x.flip(-1), x)
    )


@pytest.mark.parametrize(("side", "reach"), [(8, 1), (28, 3), (32, 4), (64, 8)])
def test_shifts_reach_an_eighth_of_the_side_all_alike(side: int, reach: int) -> None:
    draws = draw("shift", side, n=50_000)
    for shift in (draws.dy, draws.dx):
        values, counts = np.unique(shift, return_counts=True)
        assert values.tolist() == list(range(-reach, reach + 1)) and shift.dtype == np.int64
        share = 1 / (2 * reach + 1)
        assert np.abs(counts / len(shift) - share).max() < 5 * (share / len(shift)) ** 0.5
    assert not draws.flip.any()
    assert abs(np.corrcoef(draws.dy, draws.dx)[0, 1]) < 0.02


def test_both_together_are_the_draws_of_each() -> None:
    both, flip, shift = (draw(name, 32, n=5000) for name in ("flip_shift", "flip", "shift"))
    assert (both.flip == flip.flip).all() and (both.dy == shift.dy).all() and (both.dx == shift.dx).all()
    assert abs(np.corrcoef(both.flip, both.dx)[0, 1]) < 0.06


@pytest.mark.parametrize("order", ["channels_last", "permuted"])
def test_memory_layout_of_the_batch_does_not_matter(order: str) -> None:
    x, index = images(N, 3, 32), torch.arange(N)
    strided = x.to(memory_format=torch.channels_last) if order == "channels_last" else x.mT.contiguous().mT
    result = draw("flip_shift", 32)(strided, index)
    assert torch.equal(result, draw("flip_shift", 32)(x, index)) and result.is_contiguous() == (order == "permuted")
    assert order == "permuted" or result.is_contiguous(memory_format=torch.channels_last)


def test_pictures_too_small_to_shift_are_refused_and_others_than_drawn_for() -> None:
    with pytest.raises(UserError, match="at least 8 pixels"):
        AUGMENTATIONS["shift"].draw(N, 7, generator(0, "augment", 0))
    with pytest.raises(ValueError, match="28x28"):
        draw("shift", 32)(images(4, 1, 28), torch.arange(4))
