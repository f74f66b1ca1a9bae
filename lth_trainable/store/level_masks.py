"""The masks of all levels in one file: bit-packed arrays named `<level>/<parameter>`; levels count from 1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lth_trainable.pruning.masks import Mask, pack, unpack

Bits = npt.NDArray[np.uint8]


def pack_levels(levels: Iterable[Mapping[str, Mask]]) -> dict[str, Bits]:
    """Bit-packed masks by their name in the file. levels: Boolean masks by parameter name, first level first."""
    return {f"{level}/{name}": pack(mask) for level, masks in enumerate(levels, 1) for name, mask in masks.items()}


def unpack_levels(entries: Mapping[str, Bits], shapes: Mapping[str, Sequence[int]]) -> dict[int, dict[str, Mask]]:
    """Boolean masks by level, then by parameter name. shapes: of the parameters, by name."""
    levels: dict[int, dict[str, Mask]] = {}
    for entry, bits in entries.items():
        level, name = _split(entry)
        levels.setdefault(level, {})[name] = unpack(bits, tuple(shapes[name]))
    return levels


def last_level(entries: Mapping[str, Bits]) -> dict[str, Bits]:
    """The bit-packed masks of the last level by parameter name; empty if there are no masks."""
    last = max((_split(entry)[0] for entry in entries), default=0)
    return {_split(entry)[1]: bits for entry, bits in entries.items() if _split(entry)[0] == last}


def _split(entry: str) -> tuple[int, str]:
    level, _, name = entry.partition("/")
    return int(level), name
