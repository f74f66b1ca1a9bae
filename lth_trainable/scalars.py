"""Numbers of NumPy and torch as Python's own: `np.int64(80)` is taken as 80, wherever a number is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_KINDS = "biuU"  # of NumPy's types: truth values, whole numbers, text; "f" are floats


def plain(value: Any) -> Any:
    """A scalar of NumPy, an array or a tensor without a dimension, as Python's own value; all else as it is.

    A float of other than 64 bits becomes the number that its shortest text names: np.float32(0.1) becomes 0.1, not
    0.10000000149011612. So a trial has the same key in whatever precision its values were kept.
    """
    if type(value).__module__ == "torch" and getattr(value, "ndim", 1) == 0 and not value.is_complex():
        on_cpu = value.detach().cpu()
        value = (on_cpu.float() if str(on_cpu.dtype) == "torch.bfloat16" else on_cpu).numpy()  # NumPy has no bfloat16
    if type(value).__module__ != "numpy" or getattr(value, "ndim", 1) != 0:
        return value
    if value.dtype.kind == "f" and value.dtype.itemsize != 8:
        import numpy as np

        return float(np.format_float_scientific(value[()]))
    return value.item() if value.dtype.kind in f"f{_KINDS}" else value


def is_several(value: Any) -> bool:
    """Whether a value is a list, an array or another collection, where one value may be meant."""
    own = plain(value)
    return isinstance(own, Iterable) and not isinstance(own, str | bytes | Mapping)


def plain_fields(instance: Any, *names: str) -> None:
    """Make these fields of a frozen dataclass Python's own numbers; for its `__post_init__`.

    A field with several values becomes a tuple, a mapping a dict of such values; what is plain already stays as it is.
    """
    for name in names:
        value = getattr(instance, name)
        own = _plain_deep(value)
        if own is not value:
            object.__setattr__(instance, name, own)


def _plain_deep(value: Any) -> Any:
    if isinstance(value, Mapping):
        own = {key: _plain_deep(each) for key, each in value.items()}
        return value if all(own[key] is each for key, each in value.items()) else own
    if not is_several(value):
        return plain(value)
    values = tuple(value)
    plain_ones = tuple(map(_plain_deep, values))
    is_own = isinstance(value, tuple) and all(a is b for a, b in zip(plain_ones, values, strict=True))
    return value if is_own else plain_ones
