"""Any folder of class folders: mixed sizes, modes and layouts become one array, or are refused in one line."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lth_trainable.data import class_folders
from lth_trainable.data.class_folders import decode_any, read_class_folders
from lth_trainable.data.datasets import Dataset, load_dataset
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec

MODES = ("RGB", "L", "RGBA", "P", "CMYK", "I;16", "LA", "1")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LTH_CACHE", str(tmp_path / "cache"))
    load_dataset.cache_clear()
    return tmp_path / "cache"


def image(seed: int, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    return Image.fromarray(pixels).convert(mode)


def make(folder: Path, classes: str = "ab", n: int = 6, modes: tuple[str, ...] = ("RGB",)) -> Path:
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            seed, mode = 1000 * place + i, modes[i % len(modes)]
            image(seed, mode, (30 + i, 40 - i)).save(folder / name / f"{i}.{'tif' if mode == 'CMYK' else 'png'}")
    return folder


def sizes(data: Dataset) -> list[int]:
    return [len(split) for split in (data.train, data.valid, data.test)]


def test_mixed_sizes_and_modes_become_one(tmp_path: Path) -> None:
    make(tmp_path / "data", n=len(MODES), modes=MODES)
    data = load_dataset("folder", tmp_path / "data", 0, 24)
    assert data.shape == (3, 24, 24) and sizes(data) == [14, 1, 1] and data.classes == ("a", "b")
    assert np.allclose(data.train.x.mean((0, 2, 3)), 0, atol=1e-5) and data.train.x.dtype == np.float32
    assert load_dataset("folder", tmp_path / "data").shape == (3, 64, 64)


def test_all_grey_is_one_channel_and_16_bits_keep_the_upper_8(tmp_path: Path) -> None:
    make(tmp_path / "data", modes=("L", "I;16", "LA", "1"))
    assert load_dataset("folder", tmp_path / "data").shape == (1, 64, 64)
    grey = image(3, "I;16", (20, 20))
    grey.save(tmp_path / "deep.png")
    assert np.array_equal(decode_any(tmp_path / "deep.png", "L", 20)[0], np.asarray(grey) >> 8)


def test_transparent_pixels_are_white_and_photos_stand_upright(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (decode_any(tmp_path / "clear.png", "RGB", 4) == 255).all()
    photo = Image.fromarray(np.repeat(np.arange(0, 256, 32, dtype=np.uint8)[None], 8, 0))
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: left is up
    photo.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(decode_any(tmp_path / "turned.png", "L", 8)[0], np.asarray(photo).T)


def test_split_folders_are_the_splits_and_the_rest_is_drawn(tmp_path: Path) -> None:
    for name, n in (("train", 20), ("val", 3), ("Test", 2)):
        make(tmp_path / "all" / "birds" / name, n=n)
    data = load_dataset("folder", tmp_path / "all")  # a folder with nothing but one folder in it is entered
    assert sizes(data) == [40, 6, 4] and data.valid.y.tolist() == [0, 0, 0, 1, 1, 1]
    again = load_dataset("folder", tmp_path / "all", 1)
    assert np.array_equal(again.test.x, data.test.x) and not np.array_equal(again.train.x, data.train.x)
    assert again.digest == data.digest
    (tmp_path / "all" / "birds" / "Test").rename(tmp_path / "moved")
    load_dataset.cache_clear()
    drawn = load_dataset("folder", tmp_path / "all")
    assert sizes(drawn) == [36, 6, 4] and np.allclose(drawn.valid.y, data.valid.y) and drawn.digest != data.digest


def test_an_image_that_changes_splits_changes_the_digest(tmp_path: Path) -> None:
    for name, n in (("train", 12), ("valid", 2)):
        make(tmp_path / "d" / name, n=n)
    before = load_dataset("folder", tmp_path / "d").digest
    os.rename(tmp_path / "d" / "train" / "b" / "9.png", tmp_path / "d" / "valid" / "a" / "9.png")
    load_dataset.cache_clear()
    assert load_dataset("folder", tmp_path / "d").digest != before


def test_class_folders_may_have_folders_and_hidden_files(tmp_path: Path) -> None:
    make(tmp_path / "d")
    (tmp_path / "d" / "a" / "deeper").mkdir()
    image(7).save(tmp_path / "d" / "a" / "deeper" / "7.jpeg")
    for odd in ("._0.png", "notes.txt"):
        (tmp_path / "d" / "a" / odd).write_bytes(b"nothing")
    for odd in (".git", "__MACOSX"):
        (tmp_path / "d" / odd).mkdir()
    assert read_class_folders(tmp_path / "d", 16).y.tolist() == [0] * 7 + [1] * 6


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda d: d.rename(d.with_name("away")), "an existing folder"),
    "no class": (lambda d: [(d / name).rename(d.with_name(name)) for name in "ab"], "at least 2"),
    "empty class": (lambda d: (d / "c").mkdir(), "no image"),
    "only test": (lambda d: make(d / "test"), "test without train"),
    "unlabelled test": (lambda d: [make(d / "train"), (d / "test").mkdir()], "without a class cannot be used"),
    "another class": (lambda d: [make(d / "train"), make(d / "test", "ac")], "found 'c'"),
    "broken": (lambda d: (d / "a" / "0.png").write_bytes(b"not an image"), r"a/0\.png: cannot be decoded"),
    "cut": (lambda d: (d / "a" / "0.png").write_bytes((d / "a" / "0.png").read_bytes()[:-90]), "cannot be decoded"),
    "dangling": (lambda d: (d / "a" / "x.png").symlink_to(d / "nowhere"), r"cannot be read .*x\.png"),
    "float": (lambda d: Image.fromarray(np.zeros((9, 9), np.float32)).save(d / "a" / "f.tif"), "floating point"),
    "few": (lambda d: [(d / "a" / f"{i}.png").unlink() for i in range(4)], "at least 10"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    damage, says = REFUSED[case]
    damage(make(tmp_path / "d"))
    with pytest.raises(UserError, match=says) as caught:
        load_dataset("folder", tmp_path / "d")
    assert "\n" not in str(caught.value)


def test_more_than_the_memory_holds_and_a_missing_root_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--data-root: found None"):
        load_dataset("folder")
    with pytest.raises(UserError, match=r"1000000 x 1000000 pixels.* GiB.*--image-size.*DataLoaders"):
        load_dataset("folder", make(tmp_path / "d"), 0, 1_000_000)


def test_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "d", modes=MODES)
    first = load_dataset("folder", folder)
    load_dataset.cache_clear()
    monkeypatch.setattr(class_folders, "opened", None)
    assert load_dataset("folder", folder).digest == first.digest


def test_the_size_is_part_of_a_trial_only_where_it_is_not_the_usual_one() -> None:
    plain, large = TrialSpec(dataset="pets"), TrialSpec(dataset="pets", image_size=96)
    assert TrialSpec(dataset="pets", image_size=64) == plain and plain.data_key == ("pets", 0)
    assert large.data_key == ("pets", 0, 96) and "-px96-" in large.name and large.key("d") != plain.key("d")
    for wrong in ({"dataset": "digits", "image_size": 16}, {"dataset": "folder", "image_size": 0}):
        with pytest.raises(UserError, match="image_size"):
            TrialSpec(**wrong)


@pytest.mark.slow
def test_a_real_archive_gives_the_images_of_its_own_reader(data_archives: Path, tmp_path: Path) -> None:
    with tarfile.open(data_archives / "cifar10.tgz") as tar:
        tar.extractall(tmp_path, filter="data")
    data, own = load_dataset("folder", tmp_path / "cifar10", 0, 32), load_dataset("cifar10", tmp_path)
    assert isinstance(data, Dataset) and isinstance(own, Dataset) and sizes(data) == [45_000, 5_000, 10_000]
    for one, two in ((data.train, own.train), (data.valid, own.valid), (data.test, own.test)):
        assert np.array_equal(one.x, two.x) and np.array_equal(one.y, two.y)
