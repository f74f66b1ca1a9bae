"""Hold a plug-in of one's own to the contracts of the house, before a sweep runs on it.

    python -m lth_trainable.check my_module:my_criterion [--kind criterion|schedule|model|dataset]

One line a contract. Exit code 0: all kept; 1: at least one broken; 2: there is no such plug-in, or no telling its kind.
"""

from __future__ import annotations

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

Kind = Literal["criterion", "schedule", "model", "dataset"]
_EXAMPLE = "a function such as my_module:my_criterion"
# Words in the names of a function's arguments that give away which of two kinds it is.
_WORDS: dict[Kind, tuple[str, ...]] = {"model": ("shape", "class"), "dataset": ("root", "seed", "path", "folder")}


def main(
    plug_in: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODULE:FUNCTION")],
    kind: Annotated[Kind | None, tyro.conf.arg(help="what it is; guessed from its arguments when not given")] = None,
    data_root: Annotated[Path | None, tyro.conf.arg(help="folder of a data set that reads files")] = None,
) -> int:
    """Run the contracts of a criterion, schedule, network or data set on a plug-in. Returns the exit code.

    Args:
        plug_in: where it is, such as my_module:my_criterion
    """
    if ":" not in plug_in:
        raise bad_value("plug-in", plug_in, _EXAMPLE)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    function = lookup("plug-in", plug_in, {})
    kind = kind or guess_kind(plug_in, function)
    from lth_trainable.contracts import CONTRACTS, serialisable, what_breaks  # torch, only once the input is good

    rooted = functools.wraps(function)(lambda _, split_seed: function(data_root, split_seed))
    print(f"{plug_in}, as a {kind}:", flush=True)
    broken = 0
    for contract in CONTRACTS[kind]:
        subject = rooted if kind == "dataset" and contract.check is not serialisable else function
        fault = what_breaks(contract, subject)
        broken += fault is not None
        print(f"  {contract.name:<30} {'ok' if fault is None else f'BROKEN: {fault}'}", flush=True)
    print(f"{broken} of {len(CONTRACTS[kind])} contracts broken" if broken else "all contracts kept")
    return FAILED if broken else OK


def guess_kind(name: str, function: Callable[..., Any]) -> Kind:
    """The kind by the arguments it needs: one, a criterion; three, a schedule; two, a network or a data set."""
    try:
        needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: found no signature to tell its kind by; give it with --kind") from error
    if len(needed) == 1:
        return "criterion"
    if len(needed) == 3:
        return "schedule"
    named: list[Kind] = [kind for kind, words in _WORDS.items() if any(w in n for w in words for n in needed)]
    if len(needed) == 2 and len(named) == 1:
        return named[0]
    raise UserError(
        f"{name}: found a function of ({', '.join(needed)}), which may be of any kind; expected f(weights), a"
        " criterion; f(start, end, pos), a schedule; f(shape, n_classes), a network; or f(root, split_seed), a data"
        " set. Give its kind with --kind"
    )


def command(arguments: list[str] | None = None) -> int:
    """`main` on a command line; returns its exit code."""
    return command_line(
        lambda: tyro.cli(main, prog="python -m lth_trainable.check", description=__doc__, args=arguments)
    )


if __name__ == "__main__":
    sys.exit(command())
