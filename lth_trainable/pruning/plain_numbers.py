"""Numbers of NumPy and torch as Python's own, for arguments: counts stay exact, and settings can be written as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from lth_trainable.errors import bad_value

_SHORTER = {"float16": np.float16, "float32": np.float32}


def plain_number(value: Any) -> Any:
    """A number of NumPy or torch, or an array or tensor of one without axes, as Python's; others as they are.

    A shorter float becomes the decimal that it is printed as: the float32 80.1 gives 80.1, not 80.0999984741211.
    """
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    number, kind = value.item(), str(value.dtype).rpartition(".")[2]
    return float(str(_SHORTER[kind](number))) if kind in _SHORTER else number


def whole_number(where: str, value: Any, least: int, note: str = "") -> int:
    """The whole number that was given. Raises `UserError` for anything else, and below `least`."""
    number = plain_number(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise bad_value(where, value, f"a whole number, {least} or more{note}")
    return number
