"""Which images of a split a network gets right: one bit for each image, as base64 text in JSON files."""

from __future__ import annotations

import base64
import binascii

import numpy as np
import numpy.typing as npt


def pack(right: npt.NDArray[np.bool_]) -> str:
    """Text of the bits, in the order of the images of the split, eight to a byte, the first in the highest bit."""
    return base64.b64encode(np.packbits(right).tobytes()).decode("ascii")


def to_bytes(text: str) -> bytes:
    """The packed bits of `pack`. Raises `ValueError` for a text that is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"it is not base64: {error}") from error


def unpack(packed: bytes, n: int) -> npt.NDArray[np.bool_]:
    """Whether each of the n images is right, shape (n,). Raises `ValueError` for another number of bytes."""
    if len(packed) != (n + 7) // 8:
        raise ValueError(f"found {len(packed)} bytes for {n} images, expected {(n + 7) // 8}")
    return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=n).astype(bool)
