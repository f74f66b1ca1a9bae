"""Errors that are shown in one line without a traceback: their exceptions, their form, and the exit codes of commands.

`UserError` is a mistake in what was asked for (exit code 2), `StorageError` a storage that does not work (exit code 1).
The message says where the problem is, what was found, what was expected and what to do. `command_line` prints it.
`printable` makes any text safe to show: nothing in it can move the cursor, hide or reorder what a terminal shows.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

# Exit codes of all commands. STOPPED: by a limit of the command, or by SIGUSR1, with which a batch system warns that a
# job's time is nearly over; the same command continues. The codes above 128: 128 and the number of the signal.
OK, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 3
HUNG_UP, INTERRUPTED, CLOSED_PIPE, TERMINATED = 129, 130, 141, 143


class UserError(ValueError):
    """A mistake in what the user asked for. The message says everything, so it is shown without a traceback."""


class StorageError(Exception):
    """The storage failed, through no fault of the trial or command that used it. The message says everything.

    It is not an `OSError`, so that whoever expects problems with one file does not take it for one of them.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        """The message as it was given: fastai puts words before it where it passes through a callback."""
        return self.message


def bad_value(where: str, found: Any, expected: str, advice: str = "") -> UserError:
    """The exception for a wrong value, to be raised: `where: found ...; expected ...; advice`."""
    return UserError(f"{where}: found {found!r}; expected {expected}" + (f"; {advice}" if advice else ""))


def unknown_name(where: str, found: str, valid: Iterable[str]) -> UserError:
    """The exception for an unknown name. Its message lists the valid names and suggests the nearest."""
    names = sorted(valid)
    near = difflib.get_close_matches(str(found).lower(), names, n=1, cutoff=0.5)
    return bad_value(
        where,
        found,
        f"one of {', '.join(names)}",
        f"did you mean {near[0]}?" if near else "or plug in your own as package.module:function",
    )


def check_sparsity(where: str, value: Any) -> None:
    """Raise `UserError` unless the value is a percentage between 0 and 100, exclusive. Fractions are refused too."""
    expected = "percent of the weights, more than 0 and less than 100"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise bad_value(where, value, expected)
    if 0 < value < 1:
        raise bad_value(where, value, expected, f"the unit is percent: did you mean {round(value * 100, 6):g}?")
    if value == 100:
        raise bad_value(where, value, expected, "at 100 no weight would be left")
    if value == 0:
        raise bad_value(where, value, expected, "0 is the dense network; every sweep has dense baselines already")
    if not 0 < value < 100:
        raise bad_value(where, value, expected)


def command_line(command: Callable[[], int]) -> int:
    """Run a command and return its exit code.

    A `UserError` becomes one line on standard error and exit code 2, a `StorageError` one line and exit code 1.
    """
    try:
        return command()
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return BAD_INPUT
    except StorageError as error:
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
        return FAILED


_SEQUENCES = re.compile(  # what a terminal takes as a command: colours and cursor, then titles, links and the clipboard
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)"
)
_KEPT = "\n\t"


def printable(text: object) -> str:
    """The text without anything that acts on a terminal or hides in a page. Line breaks and tabs stay.

    Terminal sequences are removed. Other control characters, invisible characters, marks that change the direction of
    writing, and halves of surrogate pairs are written as escapes such as `\\x07` or `\\u202e`.
    """
    found = str(text)
    if found.isprintable():
        return found
    found = _SEQUENCES.sub("", found).replace("\r\n", "\n")
    return "".join(map(_visible, found))


def one_line(text: object) -> str:
    """The text as `printable` gives it, in one line: line breaks and tabs become spaces."""
    found = printable(text)
    return found if found.isprintable() else " ".join(found.split())


def _visible(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return character.encode("ascii", "backslashreplace").decode() if character > "\x7f" else f"\\x{ord(character):02x}"
