"""Mistakes of the user: the exception for them, the form of its messages, and the exit codes of commands.

The message of a `UserError` says where the mistake is, what was found, what was expected and what to do. `command_line`
prints it without a traceback and ends the command with exit code 2.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

# Exit codes of all commands. STOPPED: by a limit of the command, or by SIGUSR1, with which a batch system warns that a
# job's time is nearly over; the same command continues. The codes above 128: 128 and the number of the signal.
from lth_trainable.safe_text import one_line, without_secrets
from lth_trainable.scalars import is_several, plain

OK, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 3
HUNG_UP, INTERRUPTED, CLOSED_PIPE, TERMINATED = 129, 130, 141, 143


PLACES = (
    "environment variables (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), ~/.aws/credentials or the role of the machine"
)
DATABASES = "PGPASSWORD or ~/.pgpass (PostgreSQL), or ~/.my.cnf (MySQL)"


SEVERAL = (  # what to do about a list where one value is meant
    "for several values give each trial one: a list in Sweep(sparsity=[50, 80]) or under axes: of a recipe, "
    "tune.grid_search([50, 80]) in a Tuner"
)


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


class NoRoom(UserError):
    """A trial does not fit into the memory that is free now. On a new worker it may."""


def words_of(error: BaseException) -> str:
    """The message of an exception in one line, whatever somebody else's code has made of it; it may be empty."""
    try:
        return one_line(" ".join(str(error).split()))
    except Exception as broken:
        return f"(its message cannot be read: {type(broken).__name__})"


def refuse_secrets(where: str, text: str, places: str = PLACES) -> None:
    """Raise `UserError` if a path or URI holds credentials. where: what it is, for the message. places: for them."""
    if without_secrets(text) != text:
        raise UserError(
            f"{where}: found credentials in a URI; expected one without them, since it is written into plans, reports "
            f"and logs; put them into {places}, and renew those that were typed: they may be in your shell's history"
        )


def bad_value(where: str, found: Any, expected: str, advice: str = "") -> UserError:
    """The exception for a wrong value, to be raised: `where: found ...; expected ...; advice`."""
    return UserError(f"{where}: found {found!r}; expected {expected}" + (f"; {advice}" if advice else ""))


def too_large(where: str, found: int, most: int) -> UserError:
    """The exception for a whole number above `most`. A very long one is shortened."""
    shown = str(found) if found < 10**30 else "a number of more than 30 digits"
    return UserError(f"{where}: found {shown}; expected a whole number of at most {most:,}")


def is_finite_number(value: Any) -> bool:
    """Whether a value is a number, also one of NumPy, and no truth value, that a float can hold."""
    value = plain(value)
    try:
        return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


PLUG_IN = "or plug in your own as package.module:function"


def unknown_name(
    where: str, found: str, valid: Iterable[str], also_called: Mapping[str, str] = MappingProxyType({}),
    otherwise: str = "",
) -> UserError:  # fmt: skip
    """The exception for an unknown name. Its message lists the valid names and suggests the nearest.

    also_called: the valid name of what others call otherwise. otherwise: the advice if no name is near, such as
    `PLUG_IN` where a function of the user's may take the place of a name.
    """
    names = sorted(valid)
    asked = str(found).lower()
    known = also_called.get(asked.replace("-", "_"))
    near = [known] if known is not None else difflib.get_close_matches(asked, names, n=1, cutoff=0.5)
    return bad_value(
        where,
        found,
        f"one of {', '.join(names)}",
        f"did you mean {near[0]}?" if near else otherwise,
    )


def check_sparsity(where: str, value: Any) -> None:
    """Raise `UserError` unless the value is a percentage between 0 and 100, exclusive. Fractions are refused too."""
    expected, value = "percent of the weights, more than 0 and less than 100", plain(value)
    if is_several(value):
        raise bad_value(where, value, expected, SEVERAL)
    if not is_finite_number(value):
        raise bad_value(where, value, expected)
    if 0 < value < 1:
        raise bad_value(where, value, expected, f"the unit is percent: did you mean {round(value * 100, 6):g}?")
    if value == 100:
        raise bad_value(where, value, expected, "at 100 no weight would be left")
    if value == 0:
        raise bad_value(where, value, expected, "0 is the dense network; every sweep has dense baselines already")
    if not 0 < value < 100:
        raise bad_value(where, value, expected)


def check_whole(where: str, value: Any, least: int, note: str = "") -> None:
    """Raise `UserError` unless the value is a whole number of at least `least`. note: what it means."""
    own = plain(value)
    if isinstance(own, bool) or not isinstance(own, int) or own < least:
        raise bad_value(where, value, f"a whole number, {least} or more{note}")


def command_line(command: Callable[[], int]) -> int:
    """Run a command and return its exit code.

    A `UserError` becomes one line on standard error and exit code 2, a `StorageError` one line and exit code 1.
    """
    try:
        return command()
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except StorageError as error:
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
        return FAILED
