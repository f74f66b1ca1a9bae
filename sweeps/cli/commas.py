"""Several values of a flag may be separated by commas as well as by spaces: `--sparsity 50,80`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lth_trainable.errors import bad_value


def without_commas(argv: Sequence[str], flags: Collection[str]) -> list[str]:
    """The command line with the values of these flags as arguments of their own. Raises `UserError`.

    flags: as typed, such as `--sparsity`.
    """
    words: list[str] = []
    flag: str | None = None
    for argument in argv:
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            words += [flag, *_split(flag, value)] if equals and flag in flags else [argument]
        elif flag in flags:
            words += _split(flag, argument)
        else:
            words.append(argument)
    return words


def _split(flag: str | None, text: str) -> list[str]:
    values = text.split(",")
    if len(values) > 1 and not all(value.strip() for value in values):
        raise bad_value(str(flag), text, "values between commas, such as 50,80")
    return [value.strip() for value in values] if len(values) > 1 else [text]
