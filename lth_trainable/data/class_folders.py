"""Reads any folder of class folders, `DIR/<class>/**/*.jpg`, into arrays of one size and mode. No torch.

Folders `train` (or `training`), `valid` (`val`, `validation`) and `test` (`testing`) between DIR and the classes are
the splits. Every image file below a class folder counts, except hidden ones. How images become alike:

* size: the centre square, resized to the wanted side, bilinear, after the camera's rotation (EXIF) is applied;
* mode: one channel if every image is grey, otherwise RGB for all. Transparent pixels become white, CMYK is converted
  by Pillow, of 16 bits the upper 8 are kept, of an animation the first picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lth_trainable.data.cache import kept, kept_or_decoded
from lth_trainable.data.image_folders import Entry, centre_square, decoder_versions, key_of, refuse_other_than_files
from lth_trainable.data.pixels import DEEP, FORMATS, bits_of, eight_bits, not_decoded, opened
from lth_trainable.errors import UserError, bad_value
from lth_trainable.silence import pulse

TREE = "DIR/<class>/<images>, or DIR/{train,valid,test}/<class>/<images>"
SPLITS = {"train": ("train", "training"), "valid": ("valid", "val", "validation"), "test": ("test", "testing")}
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
GREY = ("1", "L", "LA", "La", *DEEP)  # modes of Pillow without colours
FORMATS_HERE = (*FORMATS, "TIFF")
DECODER = 1  # increase when other pixels come out, so that older cache files are not used
DEPTH = 2  # folders with nothing but one folder in them that are entered
BYTES_PER_PIXEL = 5  # a float32 and the decoded byte


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """Where the classes are. folder: above the splits, or above the classes. splits: names of the split folders.

    splits is empty if the folder has none; its keys are "train", "valid" and "test".
    """

    folder: Path
    splits: dict[str, str]
    classes: tuple[str, ...]

    @property
    def tops(self) -> list[str]:
        """The class folders, relative to `folder`, of all splits."""
        names = self.splits.values() or ("",)
        return [f"{name}/{c}".lstrip("/") for name in names for c in _subfolders(self.folder / name)]

    def label(self, path: str) -> int:
        return self.classes.index(path.split("/")[1 if self.splits else 0])

    def is_in(self, split: str, path: str) -> bool:
        return path.startswith(f"{self.splits[split]}/") if split in self.splits else False


@dataclass(frozen=True, kw_only=True)
class ClassImages:
    """All images x (n, channels, size, size), 0 to 255, with labels y (n,), in the order of their paths.

    valid, test: (n,), whether an image lies in the folder of that split; None if there is no such folder.
    """

    x: npt.NDArray[np.uint8]
    y: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    valid: npt.NDArray[np.bool_] | None
    test: npt.NDArray[np.bool_] | None


def read_class_folders(root: Path | None, size: int) -> ClassImages:
    """Read the images below `root`, each as size x size pixels. Raises `UserError` if they are not as `TREE` says."""
    if root is None:
        raise bad_value("--data-root", None, TREE, "the data set `folder` reads any folder of class folders")
    layout = find_classes(root.expanduser())
    entries = _listed(layout)
    paths = [entry.path for entry in entries]
    check_room(f"{len(entries):,} images of {size} x {size} pixels", len(entries) * 3 * size**2 * BYTES_PER_PIXEL)
    valid, test = (
        np.array([layout.is_in(split, path) for path in paths]) if split in layout.splits else None
        for split in ("valid", "test")
    )
    y = np.array([layout.label(path) for path in paths], np.int64)
    return ClassImages(x=_pixels(layout, entries, size), y=y, classes=layout.classes, valid=valid, test=test)


def find_classes(root: Path) -> ClassFolders:
    """The class folders below `root`. A folder with nothing but one folder in it is entered. Raises `UserError`."""
    if not root.is_dir():
        raise bad_value("--data-root", str(root), "an existing folder", f"it should contain {TREE}")
    folder = root
    for _ in range(DEPTH):
        within = _subfolders(folder)
        if len(within) != 1 or within[0].lower() in SPLITS["train"]:
            break
        folder = folder / within[0]
    named = {name.lower(): name for name in _subfolders(folder)}
    splits = {split: named[word] for split, words in SPLITS.items() for word in words if word in named}
    if splits and "train" not in splits:
        raise bad_value(f"folder {folder}", f"{', '.join(splits.values())} without train", TREE)
    classes = tuple(_subfolders(folder / splits.get("train", "")))
    if len(classes) < 2:
        raise bad_value(
            f"folder {folder / splits.get('train', '')}", f"{len(classes)} class folder(s)", f"at least 2: {TREE}"
        )
    for name in splits.values():
        strange = [c for c in _subfolders(folder / name) if c not in classes]
        if strange or not _subfolders(folder / name):
            raise bad_value(
                f"folder {folder / name}", ", ".join(strange) or "no class folders",
                f"only the classes of {splits['train']} ({', '.join(classes)})"[:200],
                "images without a class cannot be used; move that folder elsewhere" if not strange else "",
            )  # fmt: skip
    return ClassFolders(folder=folder, splits=splits, classes=classes)


def _subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; without hidden ones and those that systems add."""
    try:
        with os.scandir(folder) as found:
            return sorted(e.name for e in found if e.is_dir() and not e.name.startswith((".", "__")))
    except OSError as error:
        raise UserError(f"folder {folder}: cannot be listed ({error})") from error


def _listed(layout: ClassFolders) -> list[Entry]:
    """The image files, sorted by path. Raises `UserError` for a class folder without images, or one not readable."""
    entries = []
    for top in layout.tops:
        found = sorted(_files(layout.folder, top))
        if not found:
            raise bad_value(
                f"folder {layout.folder / top}", "no image", f"files ending in {', '.join(SUFFIXES)}",
                "every folder here is a class: move those that are not elsewhere",
            )  # fmt: skip
        entries += found
    return sorted(entries)


def _files(folder: Path, top: str) -> Iterator[Entry]:
    def stop(error: OSError) -> None:
        raise UserError(f"folder {folder / top}: cannot be listed ({error})") from error

    for place, folders, names in os.walk(folder / top, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                path = Path(place, name)
                try:
                    told = path.stat()
                except OSError as error:  # a link to nothing; the error names the file
                    raise UserError(f"images of {folder}: cannot be read ({error})") from error
                refuse_other_than_files(path.parent, {name: told.st_mode})
                yield Entry(path.relative_to(folder).as_posix(), told.st_size, told.st_mtime_ns)


def check_room(what: str, need: int) -> None:
    """Raise `UserError` if `need` bytes for these images are more than this machine's memory."""
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > room:
        raise bad_value(
            "dataset", f"{what}, which need {need / 2**30:,.0f} GiB",
            f"at most the memory of this machine, {room / 2**30:,.0f} GiB",
            "use a smaller --image-size, or --dataset module:function with a function that returns DataLoaders",
        )  # fmt: skip


def _pixels(layout: ClassFolders, entries: list[Entry], size: int) -> npt.NDArray[np.uint8]:
    """The images (n, channels, size, size), from the cache or decoded now."""
    key = key_of(("class folders", DECODER, decoder_versions(), size), entries)
    shapes = {mode: (len(entries), len(mode), size, size) for mode in ("L", "RGB")}
    files = {mode: f"folder-{key}-{mode}.npy" for mode in shapes}
    for mode, shape in shapes.items():
        found = kept(files[mode], shape)
        if found is not None:
            return found
    paths = [layout.folder / entry.path for entry in entries]
    mode = "L" if all(_is_grey(path) for path in paths) else "RGB"
    return kept_or_decoded(files[mode], shapes[mode], _Decoder(paths, mode, size))


class _Decoder:
    """Decodes the image of an index; other processes can do so, too."""

    def __init__(self, paths: list[Path], mode: str, size: int) -> None:
        self.paths, self.mode, self.size = paths, mode, size

    def __call__(self, index: int) -> npt.NDArray[np.uint8]:
        return decode_any(self.paths[index], self.mode, self.size)


def _is_grey(file: Path) -> bool:
    with opened(file, FORMATS_HERE) as image:
        pulse.beat()
        return image.mode in GREY


def decode_any(file: Path, mode: str, size: int) -> npt.NDArray[np.uint8]:
    """One image as (channels, size, size), whatever its size and mode. mode: "L" or "RGB". See the module."""
    from PIL import ImageOps

    with opened(file, FORMATS_HERE) as found:
        try:
            bits = bits_of(found)
            upright = eight_bits(ImageOps.exif_transpose(found), file, bits)
            image = centre_square(_converted(upright, mode), size)
        except UserError:
            raise
        except Exception as error:  # for damaged bytes Pillow raises anything from OSError to SyntaxError
            raise not_decoded(file, error) from error
    return np.asarray(image, np.uint8).reshape(size, size, len(mode)).transpose(2, 0, 1)


def _converted(image: Any, mode: str) -> Any:
    from PIL import Image

    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
