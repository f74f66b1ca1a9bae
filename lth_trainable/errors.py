"""The one exception for a user's mistake, and the two ways in which most of them read.

A `UserError` says where, what was found, what was expected and what to do. Commands print it without a traceback and
exit with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """A mistake in what was asked for; the message is complete and needs no traceback."""


def bad_value(where: str, found: Any, expected: str, advice: str = "") -> UserError:
    """`where: found ...; expected ...; advice`, as an exception to raise."""
    return UserError(f"{where}: found {found!r}; expected {expected}" + (f"; {advice}" if advice else ""))


def unknown_name(where: str, found: str, valid: Iterable[str]) -> UserError:
    """An unknown name, with the valid ones and the nearest."""
    names = sorted(valid)
    near = difflib.get_close_matches(str(found).lower(), names, n=1, cutoff=0.5)
    return bad_value(
        where,
        found,
        f"one of {', '.join(names)}",
        f"did you mean {near[0]}?" if near else "or plug in your own as package.module:function",
    )
