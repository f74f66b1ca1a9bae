"""Data sets of picture files: small made-up trees, and the real archives where `LTH_DATA` names their folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lth_trainable.data import image_folders as images
from lth_trainable.data.cache import cache_folder
from lth_trainable.data.datasets import Dataset, cifar10, mnist, pets
from lth_trainable.data.image_folders import LAYOUTS, decode, find_folder, read
from lth_trainable.errors import UserError

LOADERS = {"mnist": mnist, "cifar10": cifar10, "pets": pets}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LTH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def image(seed: int, mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> Image.Image:
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)


def make_tree(name: str, root: Path) -> Path:
    """A small data set below `root`: 3 training and 1 test picture a class, or 20 pets. Returns the layout's folder."""
    layout, seed = LAYOUTS[name], 0
    folder = root / layout.names[0]
    for part in layout.folders:
        (folder / part).mkdir(parents=True)
        files = [f"{n}.png" for n in range(3 if part.startswith("train") else 1)]
        if name == "pets":
            files = [f"Birman_{n}.jpg" for n in range(8)] + [f"pug_{n}.jpg" for n in range(12)]
        for file in files:
            image(seed, layout.mode, (layout.size, layout.size)).save(folder / part / file)
            seed += 1
    return folder


def sizes(data: Dataset) -> list[int]:
    return [len(part) for part in (data.train, data.valid, data.test)]


def equal(one: Dataset, two: Dataset) -> bool:
    pairs = [(one.train, two.train), (one.valid, two.valid), (one.test, two.test)]
    return all(np.array_equal(a.x, b.x) and np.array_equal(a.y, b.y) for a, b in pairs) and one.digest == two.digest


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_found_from_above_at_it_within_it_and_two_folders_up(name: str, tmp_path: Path) -> None:
    folder = make_tree(name, tmp_path / "up" / "unpacked")
    inside = folder / LAYOUTS[name].folders[0].split("/")[0]
    for root in (folder, folder.parent, folder.parent.parent, inside):
        assert find_folder(name, root) == folder
    assert equal(LOADERS[name](folder, 0), LOADERS[name](folder.parent.parent, 0))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=LAYOUTS[name].names[0]) as caught:
        LOADERS[name](tmp_path, 0)
    assert LAYOUTS[name].tree in str(caught.value) and str(tmp_path) in str(caught.value)
    (tmp_path / f"{LAYOUTS[name].names[0]}.tgz").touch()
    with pytest.raises(UserError, match=r"unpack .*tgz first"):
        LOADERS[name](tmp_path, 0)
    with pytest.raises(UserError, match="an existing folder"):
        LOADERS[name](tmp_path / "nowhere", 0)


def test_of_several_folders_the_archives_own_name_wins_and_strangers_are_refused(tmp_path: Path) -> None:
    folder = make_tree("pets", tmp_path)
    for name in ("catsdogs", "birds"):
        shutil.copytree(folder, tmp_path / name)
    assert find_folder("pets", tmp_path) == folder
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"birds.*catsdogs.*name the one to use"):
        find_folder("pets", tmp_path)


@pytest.mark.parametrize(
    ("name", "parts", "shape"),
    [("mnist", [28, 2, 10], (1, 28, 28)), ("cifar10", [27, 3, 10], (3, 32, 32)), ("pets", [16, 2, 2], (3, 64, 64))],
)
def test_parts_labels_and_moments(name: str, parts: list[int], shape: tuple[int, int, int], tmp_path: Path) -> None:
    make_tree(name, tmp_path)
    data, other = LOADERS[name](tmp_path, 0), LOADERS[name](tmp_path, 1)
    assert sizes(data) == sizes(other) == parts and data.shape == shape
    assert data.train.x.dtype == np.float32 and data.train.y.dtype == np.int64
    assert np.allclose(data.train.x.mean((0, 2, 3)), 0, atol=1e-5) and np.allclose(data.train.x.std((0, 2, 3)), 1)
    assert data.digest == other.digest and not np.array_equal(data.train.x, other.train.x)
    labels = np.concatenate([data.train.y, data.valid.y, data.test.y])
    assert np.bincount(labels).tolist() == ([12, 8] if name == "pets" else 10 * [4])
    if LAYOUTS[name].test:
        assert data.test.y.tolist() == other.test.y.tolist() == list(range(10))


def test_a_given_test_part_is_what_lies_in_its_folder(tmp_path: Path) -> None:
    folder = make_tree("mnist", tmp_path)
    found = read("mnist", folder)
    assert found.test is not None and found.test.sum() == 10
    for label in range(10):
        pixels = np.asarray(Image.open(folder / "testing" / str(label) / "0.png"))
        assert np.array_equal(found.x[found.test][label, 0], pixels)


def test_a_capital_is_a_cat(tmp_path: Path) -> None:
    folder = make_tree("pets", tmp_path)
    found = read("pets", folder)
    assert found.classes == ("dog", "cat") and found.test is None
    assert found.y.tolist() == 8 * [1] + 12 * [0]  # "Birman..." sorts before "pug..."
    for file in (folder / "images").glob("B*"):
        file.unlink()
    with pytest.raises(UserError, match=r"no cat among them.*capital"):
        read("pets", folder)


def test_nothing_is_lost_by_rounding(tmp_path: Path) -> None:
    folder = make_tree("pets", tmp_path)
    for n in range(9):
        image(100 + n).save(folder / "images" / f"boxer_{n}.jpg")
    assert sizes(pets(tmp_path, 0)) == [25, 2, 2]
    for file in sorted((folder / "images").glob("*_*"))[1:-8]:
        file.unlink()
    with pytest.raises(UserError, match=r"9 images.*at least 10"):
        pets(tmp_path, 0)


def test_odd_files_are_passed_over_and_odd_pictures_converted_by_content(tmp_path: Path) -> None:
    folder = make_tree("pets", tmp_path) / "images"
    before = read("pets", tmp_path)
    (folder / "Abyssinian_100.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    (folder / "._Birman_0.jpg").write_bytes(b"resource fork")
    assert np.array_equal(read("pets", tmp_path).x, before.x)
    odd = {"png": image(1, "RGB"), "rgba": image(2, "RGBA"), "grey": image(3, "L")}
    for name, odd_one in odd.items():
        odd_one.save(folder / f"zz_{name}.jpg", "PNG")
    image(4).convert("P").save(folder / "zz_gif.jpg", "GIF")
    image(5).convert("CMYK").save(folder / "zz_cmyk.JPEG")
    found = read("pets", tmp_path)
    assert found.x.shape == (25, 3, 64, 64)
    by_name = dict(zip(("cmyk", "gif", "grey", "png", "rgba"), found.x[20:], strict=True))
    assert np.array_equal(by_name["png"], np.asarray(odd["png"]).transpose(2, 0, 1))
    assert np.array_equal(by_name["rgba"], np.asarray(odd["rgba"])[:, :, :3].transpose(2, 0, 1))
    assert all(np.array_equal(channel, np.asarray(odd["grey"])) for channel in by_name["grey"])


@pytest.mark.parametrize("size", [(100, 75), (75, 101), (64, 64), (500, 333), (40, 50)])
def test_pets_are_resized_as_fastai_does(size: tuple[int, int], tmp_path: Path) -> None:
    from fastai.vision.augment import Resize
    from fastai.vision.core import PILImage

    image(7, "RGB", size).save(tmp_path / "a.jpg")
    theirs = np.asarray(Resize(64)(PILImage.create(tmp_path / "a.jpg"), split_idx=1))
    assert np.array_equal(decode(tmp_path / "a.jpg", LAYOUTS["pets"]), theirs.transpose(2, 0, 1))


@pytest.mark.parametrize("content", [b"", b"no picture", b"truncated"])
def test_a_picture_that_cannot_be_decoded_is_named(content: bytes, tmp_path: Path, cache: Path) -> None:
    file = make_tree("mnist", tmp_path) / "training" / "3" / "1.png"
    file.write_bytes(file.read_bytes()[:-200] if content == b"truncated" else content)
    with pytest.raises(UserError, match=r"training/3/1\.png: cannot be decoded"):
        mnist(tmp_path, 0)
    assert not list(cache.glob("*"))


def test_a_picture_of_another_size_is_named(tmp_path: Path) -> None:
    file = make_tree("cifar10", tmp_path) / "test" / "frog" / "0.png"
    image(0, "RGB", (32, 31)).save(file)
    with pytest.raises(UserError, match=r"frog/0\.png: found '32 x 31 pixels'; expected 32 x 32"):
        cifar10(tmp_path, 0)


def test_an_empty_class_and_a_dangling_link_are_named(tmp_path: Path) -> None:
    file = make_tree("mnist", tmp_path) / "testing" / "4" / "0.png"
    file.unlink()
    with pytest.raises(UserError, match="none in testing/4"):
        mnist(tmp_path, 0)
    file.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"testing/4/0\.png"):
        mnist(tmp_path, 0)


def never(*_: object) -> None:
    raise AssertionError("decoded again")


def test_decoded_once_wherever_the_folder_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tree("pets", tmp_path)
    first = pets(folder, 0)
    monkeypatch.setattr(images, "decode", never)
    assert equal(first, pets(folder, 0))
    moved = folder.rename(tmp_path / "elsewhere")
    assert equal(first, pets(moved, 0))
    assert not isinstance(read("pets", moved).x, np.memmap) and not read("pets", moved).x.flags.writeable


def test_a_changed_file_is_decoded_again(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tree("mnist", tmp_path)
    first = mnist(folder, 0)
    file = folder / "training" / "0" / "0.png"
    image(99, "L", (28, 28)).save(file)
    changed = mnist(folder, 0)
    assert changed.digest != first.digest and len(list(cache.iterdir())) == 2
    monkeypatch.setattr(images, "decode", never)
    os.utime(file, ns=(0, 0))
    with pytest.raises(AssertionError, match="decoded again"):
        mnist(folder, 0)
    monkeypatch.setattr(images, "DECODER", images.DECODER + 1)
    with pytest.raises(AssertionError, match="decoded again"):
        mnist(folder, 0)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other array", "pickle"])
def test_a_damaged_cache_is_written_again(damage: str, tmp_path: Path, cache: Path) -> None:
    make_tree("mnist", tmp_path)
    first = mnist(tmp_path, 0)
    [kept] = cache.iterdir()
    good = kept.read_bytes()
    if damage == "other array":
        np.save(kept, np.zeros(3))
    elif damage == "pickle":
        np.save(kept, np.array([{}], object), allow_pickle=True)
    else:
        flipped = bytes([*good[:500], good[500] ^ 1, *good[501:]])
        kept.write_bytes({"empty": b"", "cut": good[:-1], "flipped": flipped}[damage])
    assert equal(first, mnist(tmp_path, 0)) and kept.read_bytes() == good
    assert list(cache.iterdir()) == [kept]


def test_a_cache_that_cannot_be_written_costs_time_only(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree("mnist", tmp_path)
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="not cached.*LTH_CACHE"):
        assert sizes(mnist(tmp_path, 0)) == [28, 2, 10]
    cache.unlink()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="No space left"):
        mnist(tmp_path, 0)
    assert not list(cache.iterdir())


def test_without_the_variable_the_cache_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LTH_CACHE")
    assert cache_folder() == tmp_path / ".cache" / "lottery-sweep"


LOAD = "import sys, pathlib; from lth_trainable.data.datasets import load_dataset as load; "
LIGHT = "assert not {'torch', 'fastai', 'PIL'} & set(sys.modules); "
SHOW = "print(load(sys.argv[1], pathlib.Path(sys.argv[2])).digest)"


def test_several_processes_at_once(tmp_path: Path, cache: Path) -> None:
    make_tree("pets", tmp_path)
    command = [sys.executable, "-c", LOAD + LIGHT + SHOW, "pets", str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate(timeout=120) for process in running]
    assert {out.strip() for out, _ in answers} == {pets(tmp_path, 0).digest}, answers
    assert [file.suffix for file in cache.iterdir()] == [".npy"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_without_a_root_fastai_downloads(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastai.data import external

    folder = make_tree(name, tmp_path)
    monkeypatch.setattr(external, "untar_data", lambda url: folder if folder.name in url else None)
    assert len(LOADERS[name](None, 0).test) > 0

    def offline(url: str) -> Path:
        print("a bar", end="\r")
        raise OSError("Name or service not known")

    monkeypatch.setattr(external, "untar_data", offline)
    with pytest.raises(
        UserError, match=r"download failed \(OSError: Name .*\); pass --data-root DIR .*layout"
    ) as caught:
        LOADERS[name](None, 0)
    assert LAYOUTS[name].tree in str(caught.value)
    assert capsys.readouterr().out == "a bar\r\n"  # so that the error starts a line


def test_untar_data_gives_what_lies_in_fastais_own_folder(tmp_path: Path) -> None:
    make_tree("pets", tmp_path / "data")
    command = [sys.executable, "-c", LOAD + "print(len(load('pets').train))"]
    environment = os.environ | {"FASTAI_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "16\n", done.stdout + done.stderr


def unpack(archive: Path, into: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
    return into


@pytest.mark.parametrize(
    ("name", "archive", "parts", "test_classes"),
    [
        pytest.param(
            "mnist",
            "mnist_png",
            [55_000, 5_000, 10_000],
            [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
            marks=pytest.mark.slow,
        ),
        pytest.param("cifar10", "cifar10", [45_000, 5_000, 10_000], 10 * [1_000], marks=pytest.mark.slow),
        ("pets", "catsdogs", [5_912, 739, 739], None),
        ("pets", "oxford-iiit-pet-sample", [374, 46, 46], None),
    ],
)
def test_the_real_archives(
    name: str, archive: str, parts: list[int], test_classes: list[int] | None, data_archives: Path, tmp_path: Path
) -> None:
    data = LOADERS[name](unpack(data_archives / f"{archive}.tgz", tmp_path), 0)
    assert sizes(data) == parts and abs(data.train.x.mean()) < 1e-5 and abs(data.train.x.std() - 1) < 1e-3
    total = sum(np.bincount(part.y, minlength=len(data.classes)) for part in (data.train, data.valid, data.test))
    if test_classes:
        assert np.bincount(data.test.y).tolist() == test_classes
    if archive == "catsdogs":
        assert total.tolist() == [4_990, 2_400]
    if archive == "cifar10":
        assert total.tolist() == 10 * [6_000]
    smallest = total.min() / total.sum()
    assert abs((data.valid.y == total.argmin()).mean() - smallest) < 0.1
    shutil.rmtree(tmp_path)
