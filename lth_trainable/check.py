"""Check data sets, networks and plug-ins against the contracts of this project, before a sweep uses them.

    python -m lth_trainable.check dataset|model NAME ... [--data-root DIR] [--dataset NAME] [--limit SECONDS]
    python -m lth_trainable.check my_module:my_criterion [--kind criterion|schedule|model|dataset]

The first form prints one line for each name, the second one for each contract. Exit code 0: all are kept; 1: at least
one is broken; 2: the plug-in is not found, or its kind is unclear.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds: a signal may come at any moment
    from lth_trainable import signals

    signals.install()

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import tyro

from lth_trainable.errors import FAILED, OK, UserError, bad_value, command_line
from lth_trainable.options import check_numbers
from lth_trainable.quiet import ignore_torch_warnings
from lth_trainable.registry import lookup, not_covered, printing_aside
from lth_trainable.safe_text import one_line, printable
from lth_trainable.silence.limit import limited
from lth_trainable.silence.watchdog import check_limit

LIMIT = 600.0  # seconds
Kind = Literal["criterion", "schedule", "model", "dataset"]
_EXAMPLE = "a function such as my_module:my_criterion"
# Words in argument names that tell which of the two kinds with two arguments a function is
_WORDS: dict[Kind, tuple[str, ...]] = {"model": ("shape", "class"), "dataset": ("root", "seed", "path", "folder")}


def main(
    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[KIND] NAME ...")],
    kind: Annotated[Kind | None, tyro.conf.arg(help="kind of plug-in; by default guessed from its arguments")] = None,
    data_root: Annotated[Path | None, tyro.conf.arg(help="folder of the files that a data set reads")] = None,
    dataset: Annotated[str | None, tyro.conf.arg(help="data set whose images a network must take")] = None,
    limit: Annotated[
        float, tyro.conf.arg(help="seconds that one name may take without a sign of life; 0: no limit")
    ] = LIMIT,
) -> int:
    """Run the contracts for criteria, schedules, networks or data sets. Returns the exit code.

    Args:
        names: a kind and names of it, or one function such as my_module:my_criterion
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    check_limit("limit", limit)
    if names and names[0] in get_args(Kind):
        listed = cast(Kind, names[0])
        if len(names) == 1:
            raise bad_value("names", listed, f"a kind and at least one name, such as {listed} my_module:my_{listed}")
        with limited(limit, f"dataset {dataset}"):
            case = _case_of(dataset, data_root)
        faults = [_line(listed, name, data_root, case, limit) for name in names[1:]]
        return FAILED if any(faults) else OK
    if len(names) != 1 or ":" not in names[0]:
        raise bad_value("plug-in", " ".join(names), f"{_EXAMPLE}, or a kind ({', '.join(get_args(Kind))}) and names")
    import lth_trainable.contracts  # noqa: F401 (as in `_line`)

    with limited(limit, names[0]):
        return _detailed(names[0], kind, data_root)


def _detailed(plug_in: str, kind: Kind | None, data_root: Path | None) -> int:
    """One line for each contract of the kind."""
    function = lookup("plug-in", plug_in, {})
    kind = kind or guess_kind(plug_in, function)
    from lth_trainable.contracts import CONTRACTS, serialisable, what_breaks  # torch, once the input has been checked

    print(f"{plug_in}, as a {kind}:", flush=True)
    broken, subject = 0, _subject(kind, plug_in, function, data_root, None)
    for contract in CONTRACTS[kind]:
        fault = what_breaks(contract, function if contract.check is serialisable else subject)
        broken += fault is not None
        print(f"  {contract.name:<30} {'ok' if fault is None else f'BROKEN: {printable(fault)}'}", flush=True)
    if gaps := not_covered(kind, plug_in):
        print(f"note: {printable(gaps)}", flush=True)
    print(f"{broken} of {len(CONTRACTS[kind])} contracts broken" if broken else "all contracts kept")
    return FAILED if broken else OK


def _line(kind: Kind, name: str, data_root: Path | None, case: Case | None, limit: float) -> bool:
    """Check one name and print one line about it; returns whether a contract is broken."""
    import lth_trainable.contracts  # noqa: F401 (torch takes seconds to import, which are not the plug-in's)

    with limited(limit, f"{kind} {name}"):
        try:
            fault = _fault(kind, name, data_root, case)
            about = _about(kind, name, data_root, case) if fault is None else ""
        except UserError as error:
            fault, about = str(error), ""
    told = f"ok{about}" if fault is None else f"BROKEN: {fault.removeprefix(f'{kind} {name}').lstrip(':, ')}"
    print(one_line(f"{kind} {name}: {told}"), flush=True)
    return fault is not None


def _fault(kind: Kind, name: str, data_root: Path | None, case: Case | None) -> str | None:
    """What is wrong with a name of this kind; None if all contracts are kept. Raises `UserError` for an unknown one."""
    from lth_trainable.contracts import CONTRACTS, serialisable, what_breaks

    function = _function(kind, name)
    subject = _subject(kind, name, function, data_root, case)
    checks = [contract for contract in CONTRACTS[kind] if contract.check is not serialisable]
    fault = next(filter(None, (what_breaks(contract, subject) for contract in checks)), None)
    if fault is None and ":" in name and inspect.isroutine(function):
        fault = next((what_breaks(c, function) for c in CONTRACTS[kind] if c.check is serialisable), None)
    return fault


Case = tuple[tuple[int, int, int], int]  # shape of images, number of classes


def _case_of(dataset: str | None, data_root: Path | None) -> Case | None:
    if dataset is None:
        return None
    from lth_trainable.data.datasets import load_dataset

    data = load_dataset(dataset, data_root)
    return data.shape, len(data.classes)


def _function(kind: Kind, name: str) -> Any:
    """What a name of this kind stands for. Raises `UserError` for an unknown one."""
    if kind == "model":
        from lth_trainable.models.networks import find_builder

        return find_builder(name)
    from lth_trainable.contracts import registry_of

    return lookup(kind, name, registry_of(kind))


def _subject(kind: Kind, name: str, function: Any, data_root: Path | None, case: Case | None) -> Any:
    """What the contracts check: a data set with its folder, a network with its images."""
    if kind == "dataset":
        from lth_trainable.contracts.datasets import Rooted

        return Rooted(name=name, loader=function, root=data_root)
    if kind == "model" and case is not None:
        from lth_trainable.contracts.models import For

        return For(builder=function, shape=case[0], n_classes=case[1])
    return function


def _about(kind: Kind, name: str, data_root: Path | None, case: Case | None) -> str:
    """What a user wants to know of something that is fine: its size, and what its key does not cover."""
    gaps = not_covered(kind, name)
    return _size(kind, name, data_root, case) + (f"; {gaps}" if gaps else "")


def _size(kind: Kind, name: str, data_root: Path | None, case: Case | None) -> str:
    if kind == "dataset":
        from lth_trainable.data.datasets import load_dataset

        data = load_dataset(name, data_root)
        sizes = " / ".join(f"{len(split):,}" for split in (data.train, data.valid, data.test))
        return f", {sizes} images of {' x '.join(map(str, data.shape))}, {len(data.classes)} classes"
    if kind == "model":
        shape, n_classes = case or ((3, 64, 64), 2)
        with printing_aside():
            n = sum(parameter.numel() for parameter in _function(kind, name)(shape, n_classes).parameters())
        return f", {n:,} parameters for images of {' x '.join(map(str, shape))} and {n_classes} classes"
    return ""


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
    ignore_torch_warnings()
    words = list(sys.argv[1:] if arguments is None else arguments)

    def run() -> int:
        check_numbers(words, main)
        return tyro.cli(main, prog="python -m lth_trainable.check", description=__doc__, args=words)

    return command_line(run)


if __name__ == "__main__":
    signals.run(command)
