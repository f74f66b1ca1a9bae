"""`--split-seed seed`: each seed has a split of its own, so that the replicate is the seed with its split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lth_trainable.errors import bad_value

FIELD = "split_seed"
OWN = "seed"  # instead of the number of a split: that of the trial's seed


def check_splits(where: str, values: Sequence[Any]) -> None:
    """Raise `UserError` unless these are whole numbers, each a setting of its own, or `OWN` alone."""
    for value in values:
        if type(value) is str and value != OWN:
            raise bad_value(where, value, f"a whole number, or {OWN}: each seed has a split of its own")
    if OWN in values and len(set(values)) > 1:
        raise bad_value(
            where, " ".join(map(str, values)), f"{OWN} alone, or numbers",
            "a split is either part of the replicate or a setting of its own",
        )  # fmt: skip


def split_value(where: str, value: Any) -> Any:
    """A split seed from the words of a command line: a number, or `OWN`. Raises `UserError`."""
    text = value if isinstance(value, str) else str(value)
    if text != OWN and not (text.isascii() and text.isdecimal()):
        raise bad_value(where, value, f"a whole number, or {OWN}: each seed has a split of its own")
    return OWN if text == OWN else int(text)


def of_seed(values: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The values of the fields of a trial of this seed, with the number of its split."""
    return {**values, "seed": seed, **({FIELD: seed} if values.get(FIELD) == OWN else {})}


def has_own_splits(fields: Mapping[str, Any]) -> bool:
    """Whether each seed has a split of its own, from the fields of a sweep: their value, or their values."""
    return fields.get(FIELD) in (OWN, (OWN,))
