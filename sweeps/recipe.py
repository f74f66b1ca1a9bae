"""Show a recipe, or how two recipes differ: every field of the sweep and of its trials, with defaults resolved.

    python -m sweeps.recipe show RECIPE [--json | --yaml]
    python -m sweeps.recipe diff A B [--json]

A recipe is a name from `python -m sweeps.lth_grid --list`, a .yaml or .toml file, or `package.module:function`.
Nothing is trained. Data are read only for the baseline small_dense, whose width depends on the images. Exit code: 0,
or 2 for bad input; the exit code of `diff` does not depend on whether there are differences.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds: a signal may come at any moment
    from lth_trainable import signals

    signals.install()

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

import tyro

from analysis.tables.roles import BASELINE, CONTROL, DENSE, TICKET
from analysis.text import console, print_line, table_of
from lth_trainable.errors import OK, command_line
from lth_trainable.registry import lookup
from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.experiments.expand import expand
from sweeps.experiments.recipe_files import any_recipe, as_yaml, is_recipe_file
from sweeps.experiments.recipes import RECIPES, Sweep

ABSENT = "–"
FREE = ("seed", "control")  # fields of a trial that the sweep's own fields or the heading already show
Rows = dict[tuple[str, str], Any]
_RECIPE = f"{', '.join(RECIPES)}, a .yaml or .toml file, or package.module:function"


@dataclass(frozen=True, kw_only=True)
class Show:
    """Show all fields of a recipe."""

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=_RECIPE, metavar="RECIPE")]
    json: Annotated[bool, tyro.conf.arg(help="print one JSON object instead of a table")] = False
    yaml: Annotated[bool, tyro.conf.arg(help="print the recipe as a file that a sweep can be started from")] = False


@dataclass(frozen=True, kw_only=True)
class Diff:
    """Show the fields in which two recipes differ."""

    a: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=_RECIPE, metavar="A")]
    b: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=_RECIPE, metavar="B")]
    json: Annotated[bool, tyro.conf.arg(help="print one JSON object instead of a table")] = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options: Show | Diff = tyro.extras.subcommand_cli_from_dict(
        {"show": Show, "diff": Diff}, prog="python -m sweeps.recipe", description=__doc__, args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )  # fmt: skip
    return command_line(lambda: show(options) if isinstance(options, Show) else diff(options))


def show(options: Show) -> int:
    """Print the recipe's docstring and all its fields."""
    sweep, text = any_recipe(options.recipe), about(options.recipe)
    rows = rows_of(sweep)
    if options.yaml:
        print(as_yaml(sweep), end="")
        return OK
    if options.json:
        entries = [{"of": of, "field": name, "value": value} for (of, name), value in rows.items()]
        print(json.dumps({"recipe": options.recipe, "about": text, "fields": entries}))
        return OK
    table = table_of("of", "field", "value", left=("field", "value"))
    for (of, name), value in rows.items():
        table.add_row(of, name, as_text(value))
    to = console()
    print_line(to, f"{text}\n")
    to.print(table)
    return OK


def diff(options: Diff) -> int:
    """Print the fields in which the recipes differ."""
    found = differences(rows_of(any_recipe(options.a)), rows_of(any_recipe(options.b)))
    if options.json:
        entries = [{"of": of, "field": name, "a": a, "b": b} for (of, name), (a, b) in found.items()]
        print(json.dumps({"a": options.a, "b": options.b, "differs": entries}))
        return OK
    to = console()
    if not found:
        print_line(to, f"{options.a} and {options.b} do not differ")
        return OK
    table = table_of("of", "field", options.a, options.b, left=("field", options.a, options.b))
    for (of, name), (a, b) in found.items():
        table.add_row(of, name, as_text(a), as_text(b))
    to.print(table)
    return OK


def rows_of(sweep: Sweep) -> Rows:
    """Every field by (what it belongs to, name), ready for JSON; None if it is absent or has no effect.

    For the sweep: its own fields, with one entry for each item of `base` and `axes`. For its tickets, dense trials,
    controls and other baselines: the values of each spec field among them, and the numbers of trials and epochs.
    """
    rows: Rows = {}
    for field in fields(sweep):
        value = getattr(sweep, field.name)
        if isinstance(value, Mapping):
            rows |= {("sweep", f"{field.name}.{key}"): _plain(value[key]) for key in sorted(value)}
        else:
            rows["sweep", field.name] = _plain(value)
    expanded = expand(sweep)
    for of, role in (("tickets", TICKET), ("dense", DENSE), ("controls", CONTROL), ("baselines", BASELINE)):
        members = [trial for trial in expanded.trials if expanded.roles[trial.name] == role]
        if not members:
            continue
        rows[of, "trials"] = len(members)
        rows[of, "epochs asked for"] = sum(trial.epochs_alone() for trial in members)
        rows |= {(of, f.name): _values(members, f.name) for f in fields(TrialSpec) if f.name not in FREE}
    return rows


def differences(a: Rows, b: Rows) -> dict[tuple[str, str], tuple[Any, Any]]:
    """The rows that differ, grouped by kind: in the order of `a`, then those that only `b` has."""
    kinds = list(dict.fromkeys(of for of, _ in (*a, *b)))
    names = sorted(dict.fromkeys((*a, *b)), key=lambda row: kinds.index(row[0]))
    return {row: (a.get(row), b.get(row)) for row in names if a.get(row) != b.get(row)}


def about(name: str) -> str:
    """The docstring of a recipe; of one in a file, its question."""
    if is_recipe_file(name):
        return any_recipe(name).claim
    return inspect.getdoc(lookup("recipe", name, RECIPES)) or "no docstring"


def as_text(value: Any) -> str:
    """A value as a table shows it."""
    if value is None or value == []:
        return ABSENT
    if isinstance(value, list):
        return ", ".join(as_text(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(trials: Iterable[TrialSpec], name: str) -> Any:
    """The values of a field among trials: one value, or a sorted list of several; None if it has no effect."""
    found = dict.fromkeys(getattr(trial, name) for trial in trials)
    known = sorted(value for value in found if value is not None)
    values = [*([None] if None in found and known else []), *known]
    return values[0] if len(values) == 1 else values or None


def _plain(value: Any) -> Any:
    """A value ready for JSON: tuples as lists, functions by name."""
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return _function_name(value) if callable(value) else value


def _function_name(function: Callable[..., Any]) -> str:
    """A function's name, with its module if that is not part of this project, and its line if it is anonymous."""
    name = getattr(function, "__qualname__", None)
    if name is None:
        return repr(function)
    module = getattr(function, "__module__", "")
    code = getattr(function, "__code__", None)
    line = f" in line {code.co_firstlineno}" if code is not None and "<" in name else ""
    return f"{name}{line}" if module == Sweep.__module__ else f"{module}:{name}{line}"


if __name__ == "__main__":
    signals.run(main)
