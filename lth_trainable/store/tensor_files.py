"""Arrays and tensors of the files in sealed folders. What cannot be read as such is `Damaged`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError

from lth_trainable.pruning.masks import Mask
from lth_trainable.store.layout import Odd, readable
from lth_trainable.store.level_masks import unpack_levels
from lth_trainable.store.store import MASKS, Damaged, Sealed, Store

if TYPE_CHECKING:
    from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]


def arrays_of(store: Store, folder: Sealed, name: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays in a file, as numpy has them. Raises `Damaged`."""
    from safetensors.numpy import load

    return _loaded(load, store, folder, name)


def tensors_of(store: Store, folder: Sealed, name: str) -> dict[str, Tensor]:
    """The tensors in a file. Raises `Damaged`."""
    from safetensors.torch import load

    return _loaded(load, store, folder, name)


def bits_of(store: Store, folder: Sealed) -> dict[str, npt.NDArray[np.uint8]]:
    """The bit-packed masks of a folder by their names in the file. Raises `Damaged`."""
    found = arrays_of(store, folder, MASKS)
    for name, bits in found.items():
        level, mark, _ = name.partition("/")
        if bits.dtype != np.uint8 or bits.ndim != 1 or not (mark and level.isdecimal() and len(level) < 6):
            raise Damaged(folder.path, f"{MASKS} holds {name[:80]!r}, which is no bit-packed mask of a level")
    return found


def levels_of(store: Store, folder: Sealed, shapes: Mapping[str, Any]) -> dict[int, dict[str, Mask]]:
    """The masks of a folder by level, then by parameter. shapes: of the parameters. Raises `Damaged`."""
    bits = bits_of(store, folder)
    try:
        with readable(MASKS):
            return unpack_levels(bits, shapes)
    except Odd as error:
        raise Damaged(folder.path, str(error)) from error


def check_like(folder: Sealed, name: str, tensors: Mapping[str, Any], like: Mapping[str, Any]) -> None:
    """Raise `Damaged` unless the tensors have the names and shapes of `like`, and no others."""
    found, wanted = _shapes(tensors), _shapes(like)
    if found != wanted:
        odd = next(n for n in (*wanted, *found) if found.get(n) != wanted.get(n))
        raise Damaged(
            folder.path, f"{name} holds {odd[:80]!r} of shape {found.get(odd)}; the network's is {wanted.get(odd)}"
        )


def _shapes(tensors: Mapping[str, Any]) -> Shapes:
    return {name: tuple(getattr(tensor, "shape", (-1,))) for name, tensor in tensors.items()}


def _loaded(load: Callable[[bytes], Any], store: Store, folder: Sealed, name: str) -> Any:
    if name not in folder.manifest["files"]:
        raise Damaged(folder.path, f"it has no {name}")
    content = store.content(folder, name)
    try:
        with readable(name):
            return load(content)
    except (SafetensorError, Odd) as error:
        raise Damaged(folder.path, f"{name} is unreadable ({str(error).partition(chr(10))[0][:300]})") from error
