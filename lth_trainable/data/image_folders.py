"""Picture files -> arrays: finding a data set's folder, decoding it once, keeping what was decoded. No torch.

A `FolderLayout` says how the files of a data set lie; `read` turns them into uint8 arrays in the order of the paths, so
that neither the folder nor the file system shows in them. `lth_trainable/data/datasets.py` cuts them into parts.

What is decoded is kept in `$LTH_CACHE` (or `~/.cache/lottery-sweep`), under a name made of the paths, sizes and times
of the files and the versions of the decoder: one file a listing, uint8, mapped into memory by those that come after.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lth_trainable.errors import UserError, bad_value

CACHE_VARIABLE = "LTH_CACHE"
DECODER = 1  # raise when `decode` gives other pixels: what was kept before is then not used
SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")  # whatever the suffix; Pillow's other readers have no business here
DEPTH = 2  # folders below the root in which a layout is looked for
SHA = hashlib.sha256().digest_size


@dataclass(frozen=True, kw_only=True)
class FolderLayout:
    """How the files of a data set lie.

    url: its name among fastai's `URLs`. names: of its folder, the archive's own first. tree: the layout in words.
    folders: all that hold pictures, relative to the layout's folder. classes: by folder name, or, where pictures of
    all classes lie in one folder, (small, capital) first letter. test: folder of the test part, None without one.
    mode: Pillow's, "L" (1 channel) or "RGB" (3). size: side in pixels. crop: resize the centre square to that, rather
    than demand it.
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
        """The class of the picture at `path`, relative to the layout's folder."""
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
    """All pictures x (n, channels, height, width), 0 to 255, with labels y (n,), in the order of their paths.

    test: (n,), whether a picture belongs to the test part that the data set brings with it; None where it brings none.
    """

    x: npt.NDArray[np.uint8]
    y: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    test: npt.NDArray[np.bool_] | None


class Entry(NamedTuple):
    """A picture file: path relative to the layout's folder (with `/`), size in bytes, time of change in ns."""

    path: str
    size: int
    changed: int


def read(name: str, root: Path | None) -> Images:
    """The pictures of the data set `name` below `root`; without a root, fastai downloads them."""
    layout = LAYOUTS[name]
    folder = find_folder(name, download(name) if root is None else root)
    entries = list_images(folder, layout)
    paths = [entry.path for entry in entries]
    y = np.array([layout.label(path) for path in paths], np.int64)
    for missing in set(range(len(layout.classes))) - set(y.tolist()):
        raise bad_value(
            f"pictures of {folder}", f"no {layout.classes[missing]} among them", layout.tree, _capital(layout)
        )
    test = None if layout.test is None else np.array([path.startswith(f"{layout.test}/") for path in paths])
    return Images(x=_decoded(name, folder, entries), y=y, classes=layout.classes, test=test)


def _capital(layout: FolderLayout) -> str:
    return "names of cats begin with a capital letter" if len(layout.folders) == 1 else ""


def download(name: str) -> Path:
    """The folder into which fastai's `untar_data` put the data set, downloaded on the first call."""
    from fastai.data.external import URLs, untar_data

    layout = LAYOUTS[name]
    try:
        return Path(untar_data(getattr(URLs, layout.url)))
    except Exception as error:  # no network, a full disk, a broken archive: to the user it is one thing
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{name}: download failed ({reason}); give --data-root DIR with the layout {layout.tree}"
        ) from error


def find_folder(name: str, root: Path) -> Path:
    """The layout's folder: `root` itself, its parent, or, nearest first, one of those below it."""
    layout, root = LAYOUTS[name], root.expanduser()
    if not root.is_dir():
        raise bad_value("--data-root", str(root), "a folder that is there", f"it should hold {layout.tree}")
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
    except PermissionError:  # someone else's folder beside the one that is looked for
        return
    yield from (folder / name for name in names)


def list_images(folder: Path, layout: FolderLayout) -> list[Entry]:
    """The picture files of the layout, sorted by path; passes over hidden files and other suffixes (`.mat` in Pets)."""
    entries = []
    for name in layout.folders:
        try:
            with os.scandir(folder / name) as found:
                files = [e for e in found if e.name.lower().endswith(SUFFIXES) and not e.name.startswith(".")]
            entries += [Entry(f"{name}/{e.name}", (stat := e.stat()).st_size, stat.st_mtime_ns) for e in files]
        except OSError as error:  # no permission, or a link that leads nowhere: the error names the file
            raise UserError(f"pictures of {folder}: cannot be listed ({error})") from error
        if not files:
            raise bad_value(f"pictures of {folder}", f"none in {name}", layout.tree)
    return sorted(entries)


def decode(file: Path, layout: FolderLayout) -> npt.NDArray[np.uint8]:
    """One picture, (channels, size, size), by its content whatever its suffix; grey, palette and RGBA become `mode`.

    `crop` is what fastai's `Resize(size)` does in validation: the centre square, bilinear. JPEG leaves its decoders
    some freedom, so pixels, and with them the digest of JPEG data sets, depend on the version of libjpeg.
    """
    from PIL import Image

    try:
        with Image.open(file, formats=FORMATS) as opened:
            image = opened.convert(layout.mode)
    except Exception as error:  # Pillow raises anything from OSError to SyntaxError on bytes that are no picture
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{file}: cannot be decoded ({reason}); expected a picture; unpack the archive again"
        ) from error
    if layout.crop:
        (width, height), side = image.size, min(image.size)
        left, top = (width - side) // 2, (height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        image = square.resize((layout.size, layout.size), Image.Resampling.BILINEAR)
    if image.size != (layout.size, layout.size):
        found = "{} x {} pixels".format(*image.size)
        raise bad_value(str(file), found, f"{layout.size} x {layout.size} pixels", f"the layout is {layout.tree}")
    pixels = np.asarray(image, np.uint8).reshape(layout.size, layout.size, layout.channels)
    return pixels.transpose(2, 0, 1)


def _decoded(name: str, folder: Path, entries: list[Entry]) -> npt.NDArray[np.uint8]:
    """Pictures (n, channels, size, size): those kept from before, or decoded now and kept."""
    layout = LAYOUTS[name]
    shape = (len(entries), layout.channels, layout.size, layout.size)
    kept = cache_folder() / f"{name}-{listing_key(layout, entries)}.npy"
    flat = _load_kept(kept, shape)
    if flat is None:
        flat = np.empty(int(np.prod(shape)) + SHA, np.uint8)
        pixels = flat[:-SHA].reshape(shape)
        for index, entry in enumerate(entries):
            pixels[index] = decode(folder / entry.path, layout)
        flat[-SHA:] = _sha(flat[:-SHA])
        _keep(kept, flat)
    return flat[:-SHA].reshape(shape)


def cache_folder() -> Path:
    """`$LTH_CACHE`, else `~/.cache/lottery-sweep`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path("~/.cache/lottery-sweep")).expanduser()


def listing_key(layout: FolderLayout, entries: list[Entry]) -> str:
    """SHA-256 (hex, 32 digits of it) of the listing and of all that decides which pixels a file gives."""
    import PIL
    from PIL import features

    versions = [PIL.__version__, *(features.version(name) for name in ("jpg", "libjpeg_turbo", "webp"))]
    sha = hashlib.sha256(repr((DECODER, versions, layout.mode, layout.size, layout.crop)).encode())
    for entry in entries:
        sha.update(repr(tuple(entry)).encode())
    return sha.hexdigest()[:32]


def _load_kept(file: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """The flat bytes of the pictures and their SHA-256, mapped; None where there are none or they are damaged."""
    try:
        flat: Any = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(flat, np.ndarray) or flat.dtype != np.uint8 or flat.shape != (int(np.prod(shape)) + SHA,):
        return None
    return np.asarray(flat) if np.array_equal(flat[-SHA:], _sha(flat[:-SHA])) else None


def _sha(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(pixels.data).digest(), np.uint8)


def _keep(file: Path, flat: npt.NDArray[np.uint8]) -> None:
    """Write beside and move, so that a reader or a second writer never meets half a file."""
    unfinished = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=file.stem, suffix=".part", delete=False) as stream:
            unfinished = Path(stream.name)
            np.save(stream, flat, allow_pickle=False)
        os.replace(unfinished, file)
    except OSError as error:  # a full or read-only disk costs each process the decoding, not the run
        warnings.warn(f"pictures not kept in {file.parent} ({error}); set {CACHE_VARIABLE}", stacklevel=2)
    finally:
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)
