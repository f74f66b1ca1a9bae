"""Deep, damaged, empty and huge images through every door: scaled, or refused by the name of their file."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastai.vision.augment import Resize
from fastai.vision.data import ImageDataLoaders
from PIL import Image
from torch.utils.data import DataLoader as TorchLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Grayscale, ToTensor

from lth_trainable.data import class_folders, image_folders
from lth_trainable.data.class_folders import decode_any, read_class_folders
from lth_trainable.data.feeding import loaders_of
from lth_trainable.data.image_folders import LAYOUTS, decode
from lth_trainable.data.own import load_own
from lth_trainable.data.pixels import no_clipping
from lth_trainable.errors import UserError

RAMP = np.linspace(0, 65_535, 28 * 28).reshape(28, 28).astype(np.uint16)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTH_CACHE", str(tmp_path / "cache"))


def tree(folder: Path, save: Callable[[Path], object]) -> Path:
    """Two classes of six images in `train` and four in `valid`; `save` writes the first one."""
    numbers = np.random.default_rng(0)
    for split, name in itertools.product(("train", "valid"), "ab"):
        (folder / split / name).mkdir(parents=True)
        for i in range(6 if split == "train" else 4):
            Image.fromarray(numbers.integers(0, 256, (28, 28), np.uint8)).save(folder / split / name / f"{i}.png")
    save(folder / "train" / "a" / "0.png")
    return folder


def deep(file: Path) -> None:
    Image.fromarray(RAMP).save(file)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-90])


def huge(file: Path) -> None:
    """A PNG whose head says that it has 4 thousand million pixels."""
    old = file.read_bytes()
    head = b"IHDR" + (65_536).to_bytes(4, "big") * 2 + old[24:29]
    file.write_bytes(old[:12] + head + zlib.crc32(head).to_bytes(4, "big") + old[33:])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_of_16_bits_the_upper_8_are_kept_by_both_readers_of_folders(tmp_path: Path, suffix: str) -> None:
    deep(tmp_path / f"0.{suffix}")
    assert np.array_equal(decode_any(tmp_path / f"0.{suffix}", "L", 28)[0], RAMP >> 8)
    if suffix == "png":
        assert np.array_equal(decode(tmp_path / "0.png", LAYOUTS["mnist"])[0], RAMP >> 8)


def test_big_endian_and_12_bits_are_scaled_too(tmp_path: Path) -> None:
    Image.frombytes("I;16B", (28, 28), RAMP.astype(">u2").tobytes()).save(tmp_path / "big.tif")
    assert np.array_equal(decode_any(tmp_path / "big.tif", "L", 28)[0], RAMP >> 8)
    assert class_folders.bits_of(_opened("I;16", {258: (12,)})) == 12
    assert np.array_equal(np.asarray(class_folders.eight_bits(Image.fromarray(RAMP >> 4), "x.tif", 12)), RAMP >> 8)


def _opened(mode: str, tags: dict[int, tuple[int, ...]]) -> Any:
    image = Image.new(mode, (2, 2))
    image.tag_v2 = tags  # type: ignore[attr-defined]
    return image


@pytest.mark.parametrize("pixels", [RAMP.astype(np.int32), (RAMP >> 8).astype(np.int32), RAMP.astype(np.float32)])
def test_depths_without_a_known_range_are_refused(tmp_path: Path, pixels: Any) -> None:
    """32 bits, also where no value is above 255, and floating point."""
    Image.fromarray(pixels).save(tmp_path / "0.tif")
    with pytest.raises(UserError, match=r"0\.tif: found .*(32 bits|floating point)"):
        decode_any(tmp_path / "0.tif", "L", 28)


@pytest.mark.parametrize(
    ("save", "says"),
    [(lambda file: file.write_bytes(b""), "the file is empty"), (cut, "truncated"), (huge, "too large: Image size")],
)
def test_empty_damaged_and_huge_images_are_named(tmp_path: Path, save: Callable[[Path], object], says: str) -> None:
    folder = tree(tmp_path / "images", save)
    with pytest.raises(UserError, match=rf"train/a/0\.png: .*{says}"):
        read_class_folders(folder, 28)
    with pytest.raises(UserError, match=rf"train/a/0\.png: .*{says}"):
        decode(folder / "train" / "a" / "0.png", LAYOUTS["mnist"])


def test_a_pipe_with_the_name_of_an_image_is_refused_instead_of_read(tmp_path: Path) -> None:
    folder = tree(tmp_path / "images", lambda file: file.unlink())
    os.mkfifo(folder / "train" / "a" / "0.png")
    with pytest.raises(UserError, match=r"a/0\.png: found 'a folder, pipe or device'"):
        read_class_folders(folder, 28)
    layout = LAYOUTS["mnist"]
    with pytest.raises(UserError, match="a folder, pipe or device"):
        image_folders.refuse_other_than_files(tmp_path, {"0.png": os.stat(tmp_path).st_mode})
    assert layout.classes


# -- a user's own loaders


def fastai_loaders(root: Path | None, split_seed: int) -> Any:
    return ImageDataLoaders.from_folder(root, item_tfms=Resize(28), bs=4, num_workers=0)


def fastai_by_name(root: Path | None, split_seed: int) -> Any:
    assert root is not None
    files = sorted(root.rglob("*.png"))
    return ImageDataLoaders.from_path_func(
        root, files, lambda file: file.parent.name, item_tfms=Resize(28), bs=4, num_workers=0
    )


def torch_loaders(root: Path | None, split_seed: int) -> Any:
    assert root is not None
    from fastai.data.core import DataLoaders

    make = Compose([Grayscale(), ToTensor()])
    return DataLoaders(*(TorchLoader(ImageFolder(root / name, make), 4) for name in ("train", "valid")))


def torch_dataset(root: Path | None, split_seed: int) -> Any:
    assert root is not None
    return ImageFolder(root / "train", Compose([Grayscale(), ToTensor()]))


def own_reading(root: Path | None, split_seed: int) -> Any:
    assert root is not None
    files = sorted(root.rglob("*.png"))
    x = np.stack([np.asarray(Image.open(file).convert("L")) for file in files])
    return x, np.array([file.parent.name for file in files])


OWN = [fastai_loaders, fastai_by_name, torch_loaders, torch_dataset, own_reading]


@pytest.mark.parametrize("function", OWN)
def test_a_users_own_reader_that_would_cut_16_bits_is_refused(tmp_path: Path, function: Callable[..., Any]) -> None:
    usual = Image.Image.convert
    assert load_own("own", function, tree(tmp_path / "sound", lambda file: None), 0).shape[1:] == (28, 28)
    with pytest.raises(UserError, match=r"mode I;16, which Pillow's convert\('(RGB|L)'\) cuts at 255") as caught:
        load_own("own", function, tree(tmp_path / "deep", deep), 0)
    assert "0.png" in str(caught.value) and "scale them first" in str(caught.value)
    assert Image.Image.convert is usual, "as before"


def test_deep_pixels_that_fit_into_8_bits_and_scaled_ones_are_converted() -> None:
    small = Image.fromarray(RAMP >> 8)
    with no_clipping():
        assert np.array_equal(np.asarray(small.convert("L")), RAMP >> 8)
        assert small.convert("I").mode == "I"
        with pytest.raises(UserError):
            Image.fromarray(RAMP.astype(np.float32) / 65_535).convert("L")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_of_a_users_loader_that_is_damaged_is_named_while_training(tmp_path: Path, workers: int) -> None:
    folder = tree(tmp_path / "images", lambda file: None)

    def loaders(root: Path | None, split_seed: int) -> Any:
        return ImageDataLoaders.from_folder(root, item_tfms=Resize(28), bs=4, num_workers=workers)

    data = load_own("own", loaders, folder, 0)
    for file in (folder / "train").rglob("*.png"):
        cut(file)
    with pytest.raises(UserError, match=r"train/[ab]/\d\.png: cannot be decoded \(OSError: .*truncated") as caught:
        list(loaders_of(data, batch_size=4, order_seed=0).train)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["P", "LA", "1"])
def test_items_that_are_pictures_without_plain_brightness_are_refused(mode: str) -> None:
    from torch.utils.data import Dataset

    class Pictures(Dataset[Any]):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> Any:
            return Image.fromarray(np.full((9, 9), index, np.uint8)).convert(mode), index % 2

    with pytest.raises(UserError, match=rf"item 0: found 'an image of mode {mode}"):
        load_own("own", lambda root, split_seed: Pictures(), None, 0)


def test_an_image_that_does_not_know_its_file_is_named_by_the_last_one_that_was_opened(tmp_path: Path) -> None:
    """As those of fastai, which are made of an image that Pillow has opened."""
    from lth_trainable.data.pixels import no_clipping

    file, usual = tmp_path / "deep.png", Image.open
    Image.fromarray(np.full((4, 4), 3_000, np.uint16)).save(file)
    with no_clipping(), pytest.raises(UserError) as caught:
        image = Image.open(file)
        image.load()
        image._new(image.im).convert("RGB")
    assert str(caught.value).startswith(f"{file}: found") and Image.open is usual
