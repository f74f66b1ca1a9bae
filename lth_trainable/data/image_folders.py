"""Reads image files into arrays: finds the folder of a data set, decodes it once and caches the result. No torch.

A `FolderLayout` describes the files of a data set. `read` turns them into uint8 arrays in the order of their paths, so
that the arrays do not depend on the folder or the file system. `lth_trainable/data/datasets.py` makes the splits.

Decoded images are cached (`cache.py`), by the files' paths, sizes and times and the decoder's versions.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from lth_trainable.data.cache import kept_or_decoded
from lth_trainable.data.pixels import bits_of, eight_bits, not_decoded, opened
from lth_trainable.errors import UserError, bad_value

DECODER = 2  # increase when `decode` gives other pixels, so that older cache files are not used
SUFFIXES = (".png", ".jpg", ".jpeg")
DEPTH = 2  # levels below the root that are searched for a layout


@dataclass(frozen=True, kw_only=True)
class FolderLayout:
    """Where the files of a data set are.

    url: its name in fastai's `URLs`. names: possible names of its folder, that of the archive first. tree: the layout
    in words. folders: all folders with images, relative to the layout's folder. classes: names of the class folders;
    if the images of all classes are in one folder, the class of a small and of a capital first letter. test: folder of
    the test split, None without one. mode: of Pillow, "L" (1 channel) or "RGB" (3). size: side in pixels. crop: resize
    the centre square to `size`; otherwise images must have that size.
    """

    url: str
    names: tuple[str, ...]
    tree: str
    folders: tuple[str, ...]
    classes: tuple[str, ...]
    test: str | None
    mode: str
    size: int
    crop: bool = False

    @property
    def channels(self) -> int:
        return len(self.mode)

    def label(self, path: str) -> int:
        """The class of the image at `path`, which is relative to the layout's folder."""
        folder, name = path.split("/")[-2:]
        return self.classes.index(folder) if folder in self.classes else int(name[0].isupper())


def _by_class(splits: tuple[str, str], classes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{split}/{name}" for split in splits for name in classes)


_DIGITS = tuple("0123456789")
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

LAYOUTS: dict[str, FolderLayout] = {
    "mnist": FolderLayout(
        url="MNIST", names=("mnist_png",), tree="mnist_png/{training,testing}/<digit>/*.png", classes=_DIGITS,
        folders=_by_class(("training", "testing"), _DIGITS), test="testing", mode="L", size=28,
    ),
    "cifar10": FolderLayout(
        url="CIFAR", names=("cifar10",), tree="cifar10/{train,test}/<class>/*.png (or .jpg)", classes=_CIFAR,
        folders=_by_class(("train", "test"), _CIFAR), test="test", mode="RGB", size=32,
    ),
    "pets": FolderLayout(
        url="PETS", names=("oxford-iiit-pet",), tree="oxford-iiit-pet/images/<name>.jpg", classes=("dog", "cat"),
        folders=("images",), test=None, mode="RGB", size=64, crop=True,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Images:
    """All images x (n, channels, height, width), 0 to 255, with labels y (n,), in the order of their paths.

    test: (n,), whether an image belongs to the data set's own test split; None if it has none.
    """

    x: npt.NDArray[np.uint8]
    y: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    test: npt.NDArray[np.bool_] | None


class Entry(NamedTuple):
    """An image file: path relative to the layout's folder (with `/`), size in bytes, time of change in ns."""

    path: str
    size: int
    changed: int


def read(name: str, root: Path | None, size: int | None = None) -> Images:
    """Read the images of the data set `name` below `root`. Without a root, fastai downloads them.

    size: side of the images in pixels, for a layout that resizes them; None: its own.
    """
    layout = LAYOUTS[name] if size is None else replace(LAYOUTS[name], size=size)
    folder = find_folder(name, download(name) if root is None else root)
    entries = list_images(folder, layout)
    paths = [entry.path for entry in entries]
    y = np.array([layout.label(path) for path in paths], np.int64)
    for missing in set(range(len(layout.classes))) - set(y.tolist()):
        raise bad_value(
            f"images of {folder}", f"no {layout.classes[missing]} among them", layout.tree, _capital(layout)
        )
    test = None if layout.test is None else np.array([path.startswith(f"{layout.test}/") for path in paths])
    return Images(x=_decoded(name, folder, entries, layout), y=y, classes=layout.classes, test=test)


def _capital(layout: FolderLayout) -> str:
    return "names of cats begin with a capital letter" if len(layout.folders) == 1 else ""


def download(name: str) -> Path:
    """The folder where fastai's `untar_data` puts the data set; the first call downloads it."""
    from fastai.data.external import URLs, untar_data

    layout, shown = LAYOUTS[name], _Shown()
    try:
        with contextlib.redirect_stdout(cast(Any, shown)):
            return Path(untar_data(getattr(URLs, layout.url)))
    except Exception as error:  # no network, a full disk and a broken archive need the same advice
        shown.end_line()
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{name}: download failed ({reason}); pass --data-root DIR with the layout {layout.tree}"
        ) from error


def is_downloaded(name: str) -> bool:
    """Whether `download` finds the data set on this machine."""
    from fastai.data.external import fastai_path

    return (Path(fastai_path("data")) / LAYOUTS[name].names[0]).is_dir()


class _Shown:
    """Standard output for a progress bar, which may end in the middle of a line."""

    def __init__(self) -> None:
        self._stream, self._is_within_line = sys.stdout, False

    def write(self, text: str) -> int:
        self._is_within_line = not text.endswith("\n") if text else self._is_within_line
        return self._stream.write(text)

    def end_line(self) -> None:
        if self._is_within_line:
            self.write("\n")
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def find_folder(name: str, root: Path) -> Path:
    """The folder with the layout: `root`, its parent, or a folder below `root`, nearest first. Raises `UserError`."""
    layout, root = LAYOUTS[name], root.expanduser()
    if not root.is_dir():
        raise bad_value("--data-root", str(root), "an existing folder", f"it should contain {layout.tree}")
    if _fits(root, layout):
        return root
    if root.resolve().name in {folder.split("/")[0] for folder in layout.folders} and _fits(root.parent, layout):
        return root.parent
    level = [root]
    for _ in range(DEPTH):
        level = [child for folder in level for child in _subfolders(folder)]
        found = [folder for folder in level if _fits(folder, layout)]
        named = [folder for folder in found if folder.name in layout.names]
        if len(named or found) == 1:
            return (named or found)[0]
        if found:
            names = ", ".join(str(folder) for folder in named or found)
            raise bad_value("--data-root", names, f"one folder with the layout of {name}", "name the one to use")
    archive = next((file.name for file in root.glob("*.tgz") if file.stem.startswith(layout.names)), None)
    raise bad_value(
        "--data-root",
        str(root),
        f"the layout of {name}, {layout.tree}, in it or up to {DEPTH} folders below it",
        f"unpack {archive} first" if archive else "",
    )


def _fits(folder: Path, layout: FolderLayout) -> bool:
    return all(os.path.isdir(folder / name) for name in layout.folders)  # Path.is_dir may raise PermissionError


def _subfolders(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as found:
            names = sorted(entry.name for entry in found if entry.is_dir())
    except PermissionError:  # another user's folder beside the data set
        return
    yield from (folder / name for name in names)


def list_images(folder: Path, layout: FolderLayout) -> list[Entry]:
    """The image files of the layout, sorted by path. Skips hidden files and other suffixes (`.mat` in Pets)."""
    entries = []
    for name in layout.folders:
        try:
            with os.scandir(folder / name) as found:
                files = [e for e in found if e.name.lower().endswith(SUFFIXES) and not e.name.startswith(".")]
            refuse_other_than_files(folder / name, {e.name: e.stat().st_mode for e in files})
            entries += [Entry(f"{name}/{e.name}", (told := e.stat()).st_size, told.st_mtime_ns) for e in files]
        except OSError as error:  # no permission or a broken link; the error names the file
            raise UserError(f"images of {folder}: cannot be listed ({error})") from error
        if not files:
            raise bad_value(f"images of {folder}", f"none in {name}", layout.tree)
    return sorted(entries)


def refuse_other_than_files(folder: Path, modes: Mapping[str, int]) -> None:
    """Raise `UserError` if one of these is no file: from a pipe nobody could read. modes: name -> `st_mode`."""
    for name, mode in modes.items():
        if not stat.S_ISREG(mode):
            raise bad_value(str(folder / name), "a folder, pipe or device", "an image file", "move it elsewhere")


def decode(file: Path, layout: FolderLayout) -> npt.NDArray[np.uint8]:
    """Decode one image to (channels, size, size). Its content decides the format, not its suffix.

    Grey, palette and RGBA images are converted to the layout's mode; of 16 bits the upper 8 are kept. `crop` does what
    fastai's `Resize(size)` does in validation: the centre square, bilinear. JPEG decoders may differ, so the pixels,
    and with them the digest of a JPEG data set, depend on the version of libjpeg.
    """
    with opened(file) as found:
        try:
            image = eight_bits(found, file, bits_of(found)).convert(layout.mode)
        except UserError:
            raise
        except Exception as error:  # for damaged bytes Pillow raises anything from OSError to SyntaxError
            raise not_decoded(file, error) from error
    if layout.crop:
        image = centre_square(image, layout.size)
    if image.size != (layout.size, layout.size):
        found = "{} x {} pixels".format(*image.size)
        raise bad_value(str(file), found, f"{layout.size} x {layout.size} pixels", f"the layout is {layout.tree}")
    pixels = np.asarray(image, np.uint8).reshape(layout.size, layout.size, layout.channels)
    return pixels.transpose(2, 0, 1)


def centre_square(image: Any, size: int) -> Any:
    """The centre square of a Pillow image, resized to size x size, bilinear, as fastai's `Resize(size)` validates."""
    from PIL import Image

    (width, height), side = image.size, min(image.size)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BILINEAR)


def _decoded(name: str, folder: Path, entries: list[Entry], layout: FolderLayout) -> npt.NDArray[np.uint8]:
    """Images (n, channels, size, size), from the cache or decoded now and cached."""
    shape = (len(entries), layout.channels, layout.size, layout.size)
    file = f"{name}-{listing_key(layout, entries)}.npy"
    return kept_or_decoded(file, shape, _Decoder(folder, [entry.path for entry in entries], layout))


class _Decoder:
    """Decodes the image of an index; other processes can do so, too."""

    def __init__(self, folder: Path, paths: list[str], layout: FolderLayout) -> None:
        self.folder, self.paths, self.layout = folder, paths, layout

    def __call__(self, index: int) -> npt.NDArray[np.uint8]:
        return decode(self.folder / self.paths[index], self.layout)


def listing_key(layout: FolderLayout, entries: list[Entry]) -> str:
    """The first 32 hex digits of the SHA-256 of the listing and of everything that decides a file's pixels."""
    return key_of((DECODER, decoder_versions(), layout.mode, layout.size, layout.crop), entries)


def key_of(how: tuple[Any, ...], entries: Iterable[Entry]) -> str:
    """The first 32 hex digits of the SHA-256 of a listing and of how its files are decoded."""
    sha = hashlib.sha256(repr(how).encode())
    for entry in entries:
        sha.update(repr(tuple(entry)).encode())
    return sha.hexdigest()[:32]


def decoder_versions() -> list[str | None]:
    """Versions of Pillow and of the libraries with which it decodes."""
    import PIL
    from PIL import features

    return [PIL.__version__, *(features.version(name) for name in ("jpg", "libjpeg_turbo", "webp"))]
