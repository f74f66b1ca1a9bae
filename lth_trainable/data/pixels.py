"""Images of any depth as 8 bits a channel. What Pillow would cut in silence is scaled, or refused. No torch.

Pillow's `convert("L")` and `convert("RGB")` set every value above 255 to 255: a picture with 16 bits a channel becomes
white. Here its upper 8 bits are kept.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lth_trainable.errors import UserError, bad_value, words_of

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")  # allowed for every suffix; Pillow's other readers are not needed
DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # modes of Pillow with more than 8 bits
FLOAT = "F"
TESTED = 3  # deep images of a data set that are made, to see what becomes of them
_BITS = 258  # the tag of a TIFF file that says how many bits a sample has
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH, _PNG_GREY = 24, 0  # place of the bit depth in a PNG file, before the colour type; the type of grey


def opened(file: Path, formats: tuple[str, ...] = FORMATS) -> Any:
    """The image in a file, as Pillow opens it: its head is read. Raises `UserError` that names the file."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # up to twice the size that it warns of
            return Image.open(file, formats=formats)
    except Image.DecompressionBombError as error:
        raise bad_value(
            str(file), f"an image that is too large: {words_of(error)}", "fewer pixels", "make it smaller, or remove it"
        ) from error
    except Exception as error:  # for bytes that are no image, Pillow raises anything from OSError to SyntaxError
        raise not_decoded(file, error) from error


def not_decoded(file: Path | str, error: Exception) -> UserError:
    """The exception for a file that is no image, or a damaged one."""
    try:
        empty = not Path(file).stat().st_size
    except OSError:  # it cannot be looked at either, which `error` says
        empty = False
    reason = "the file is empty" if empty else f"{type(error).__name__}: {words_of(error)}"
    return UserError(f"{file}: cannot be decoded ({reason}); expected an image; remove it or replace it")


def eight_bits(image: Any, file: Path | str, bits: int) -> Any:
    """The image with 8 bits a channel: of 12 or 16 bits the upper 8. Others stay. Raises `UserError` for other depths.

    bits: what `bits_of` says of the image as it was opened."""
    from PIL import Image

    if image.mode == FLOAT:
        raise bad_value(str(file), "pixels in floating point", "8 or 16 bits a channel", "their range is not known")
    if image.mode not in DEEP:
        return image
    values = np.asarray(image)
    if bits > 16 or values.min() < 0 or values.max() > 65_535:
        found = f"{bits} bits a channel, pixels from {values.min()} to {values.max()}"
        raise bad_value(str(file), found, "8 or 16 bits a channel", "their range is not known: convert it to 8 or 16")
    return Image.fromarray((values >> (bits - 8)).astype(np.uint8))


def bits_of(image: Any) -> int:
    """Bits of a value of a deep image that was just opened: 12 or 16 in mode I;16; in mode I 32, but in PNG 16, as
    older versions of Pillow opened it."""
    told = getattr(image, "tag_v2", {}).get(_BITS, (16,))
    if image.mode == "I":
        return 16 if image.format == "PNG" else 32
    return int(told[0]) if len(told) and 8 < told[0] < 16 else 16


@contextlib.contextmanager
def no_clipping() -> Iterator[None]:
    """Within it, a conversion of Pillow that would cut deep pixels raises `UserError`, also in a user's own code."""
    from PIL import Image

    usual, usual_open, last = Image.Image.convert, Image.open, ["an image"]

    def open_(file: Any, *args: Any, **options: Any) -> Any:
        last[0] = str(file) if isinstance(file, str | Path) else getattr(file, "name", "an image")
        return usual_open(file, *args, **options)

    def convert(self: Any, mode: str | None = None, *args: Any, **options: Any) -> Any:
        if mode is not None and mode not in (*DEEP, FLOAT) and _would_clip(self):
            name = getattr(self, "filename", "") or last[0]  # fastai's images do not know their file
            raise bad_value(
                str(name), f"pixels of mode {self.mode}, which Pillow's convert({mode!r}) cuts at 255",
                "8 bits a channel",
                "scale them first, such as Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) for 16 bits",
            )  # fmt: skip
        return usual(self, mode, *args, **options)

    Image.Image.convert, Image.open = convert, open_  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Image.Image.convert, Image.open = usual, usual_open  # type: ignore[method-assign]


def _would_clip(image: Any) -> bool:
    if image.mode not in (*DEEP, FLOAT):
        return False
    values = np.asarray(image)
    return bool(values.min() < 0 or values.max() > 255 or (values != np.floor(values)).any())


def refuse_clipped(files: Sequence[Path], item: Callable[[int], Any]) -> None:
    """Make the items of the first deep images among files, so that `no_clipping` sees what becomes of them.

    item: makes the item of an index. Raises `UserError` that names the file; for empty files too.
    """
    deep = []
    for index, file in enumerate(files):
        if is_deep(file):
            deep.append(index)
        if len(deep) == TESTED:
            break
    with no_clipping():
        for index in deep:
            try:
                item(index)
            except UserError as error:
                if str(error).startswith(str(files[index])):
                    raise
                raise UserError(f"{files[index]}: {error}") from error


def is_deep(file: Path) -> bool:
    """Whether a file is a grey PNG of 16 bits or a TIFF of a deep mode; by its first bytes. Refuses an empty file."""
    with file.open("rb") as stream:
        head = stream.read(_PNG_DEPTH + 2)
    if not head:
        raise not_decoded(file, EOFError("no bytes"))
    if head.startswith(_PNG):
        return len(head) > _PNG_DEPTH + 1 and head[_PNG_DEPTH] == 16 and head[_PNG_DEPTH + 1] == _PNG_GREY
    if head[:2] not in (b"II", b"MM"):
        return False
    with opened(file, ("TIFF",)) as image:
        return image.mode in (*DEEP, FLOAT)


def is_not_an_image(error: BaseException) -> bool:
    """Whether Pillow raised this because a file is damaged, rather than the disk because it cannot be read."""
    if isinstance(error, OSError):
        return error.errno is None
    return isinstance(error, SyntaxError) or type(error).__module__.startswith("PIL")
