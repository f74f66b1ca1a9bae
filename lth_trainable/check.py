"""Check a plug-in against the contracts of this project, before a sweep uses it.

    python -m lth_trainable.check my_module:my_criterion [--kind criterion|schedule|model|dataset]

Prints one line per contract. Exit code 0: all are kept; 1: at least one is broken; 2: the plug-in is not found, or its
kind is unclear.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds: a signal may come at any moment
    from lth_trainable import signals

    signals.install()

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lth_trainable.errors import FAILED, OK, UserError, bad_value, command_line
from lth_trainable.registry import lookup
from lth_trainable.safe_text import printable

Kind = Literal["criterion", "schedule", "model", "dataset"]
_EXAMPLE = "a function such as my_module:my_criterion"
# Words in argument names that tell which of the two kinds with two arguments a function is
_WORDS: dict[Kind, tuple[str, ...]] = {"model": ("shape", "class"), "dataset": ("root", "seed", "path", "folder")}


def main(
    plug_in: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODULE:FUNCTION")],
    kind: Annotated[Kind | None, tyro.conf.arg(help="kind of plug-in; by default guessed from its arguments")] = None,
    data_root: Annotated[Path | None, tyro.conf.arg(help="folder of the files that a data set reads")] = None,
) -> int:
    """Run the contracts for a criterion, schedule, network or data set on a plug-in. Returns the exit code.

    Args:
        plug_in: the function, such as my_module:my_criterion
    """
    if ":" not in plug_in:
        raise bad_value("plug-in", plug_in, _EXAMPLE)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    function = lookup("plug-in", plug_in, {})
    kind = kind or guess_kind(plug_in, function)
    from lth_trainable.contracts import CONTRACTS, serialisable, what_breaks  # torch, once the input has been checked

    rooted = functools.wraps(function)(lambda _, split_seed: function(data_root, split_seed))
    print(f"{plug_in}, as a {kind}:", flush=True)
    broken = 0
    for contract in CONTRACTS[kind]:
        subject = rooted if kind == "dataset" and contract.check is not serialisable else function
        fault = what_breaks(contract, subject)
        broken += fault is not None
        print(f"  {contract.name:<30} {'ok' if fault is None else f'BROKEN: {printable(fault)}'}", flush=True)
    print(f"{broken} of {len(CONTRACTS[kind])} contracts broken" if broken else "all contracts kept")
    return FAILED if broken else OK


def guess_kind(name: str, function: Callable[..., Any]) -> Kind:
    """Guess the kind from the required arguments: 1 for a criterion, 3 for a schedule, 2 for a network or data set."""
    try:
        needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: found no signature, so its kind is unclear; state it with --kind") from error
    if len(needed) == 1:
        return "criterion"
    if len(needed) == 3:
        return "schedule"
    named: list[Kind] = [kind for kind, words in _WORDS.items() if any(w in n for w in words for n in needed)]
    if len(needed) == 2 and len(named) == 1:
        return named[0]
    raise UserError(
        f"{name}: found a function of ({', '.join(needed)}), which fits no kind or several; expected f(weights), a"
        " criterion; f(start, end, pos), a schedule; f(shape, n_classes), a network; or f(root, split_seed), a data"
        " set. State its kind with --kind"
    )


def command(arguments: list[str] | None = None) -> int:
    """Run `main` with arguments from the command line; returns its exit code."""
    return command_line(
        lambda: tyro.cli(main, prog="python -m lth_trainable.check", description=__doc__, args=arguments)
    )


if __name__ == "__main__":
    signals.run(command)
