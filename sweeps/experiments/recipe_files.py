"""Recipes in files: a sweep as YAML or TOML, read and written.

    name: my_sweep                      # default: the name of the file
    claim: Do tickets match?            # the question, in one sentence
    from: digits                        # a recipe whose values hold where this file says nothing
    base: {lr: 0.002, batch_size: 128}  # fields of every trial
    axes: {sparsity: [64, 87.04]}       # fields with several values; their product gives the tickets
    seeds: 8                            # 0 to 7; or a list of seeds
    controls: [reinit]

All keys are optional, but a sweep needs a ticket: at least one axis. Keys are the fields of `Sweep`, those of `base`
and `axes` the flags of `sweeps.lth_grid` or the fields of `TrialSpec`.
"""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from analysis.published.claims import claims_of
from analysis.tables.run_plan import PUBLISHED, Rule
from lth_trainable.errors import UserError, bad_value, is_finite_number, unknown_name
from lth_trainable.registry import lookup
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.names import is_name
from sweeps.experiments.expand import MOST_SEEDS
from sweeps.experiments.recipes import BRANCHES, FLAG_OF, NO_AXIS, RECIPES, SELECTING, SELECTIONS, Sweep, find_recipe
from sweeps.experiments.split_seeds import FIELD as SPLIT
from sweeps.experiments.split_seeds import OWN

ENDINGS = (".yaml", ".yml", ".toml")
FROM = "from"
IF_POSSIBLE = "if_possible"
_TEXTS = ("name", "claim", "endpoint")
_NUMBERS = ("margin_pp", "alpha")
WITH_COMMAS = ("layers", "lr_drops")  # fields whose values may contain commas themselves
_SEVERAL = re.compile(r"[^,]+(,[^,]+)+|[\d.]+(\s+[\d.]+)+")  # 50,80 or 50 80
_FIELDS = {field: f"{FLAG_OF[field]} or {field}" if field in FLAG_OF else field for field in TrialSpec.__annotations__}


def is_recipe_file(name: str) -> bool:
    """Whether this names a recipe in a file, by its ending."""
    return name.lower().endswith(ENDINGS)


def any_recipe(name: str) -> Sweep:
    """The sweep of a recipe by its name, by its file, or from `package.module:function`. Raises `UserError`."""
    return read_recipe(Path(name)) if is_recipe_file(name) else find_recipe(name)


def read_recipe(file: Path) -> Sweep:
    """The sweep in a YAML or TOML file. Raises `UserError` with the place of the first mistake in it."""
    return recipe_of(str(file), file.stem, _content(file))


def recipe_of(where: str, name: str, content: Mapping[str, Any]) -> Sweep:
    """The sweep of these keys and values, with lists for several. Raises `UserError` with the place of a mistake.

    where: what they are from, for the message. name: of the sweep, if `content` has none.
    """
    names = [field.name for field in fields(Sweep) if field.name != "tuning"]  # it is found, not given
    for key in content:
        if key not in (*names, FROM):
            raise unknown_name(f"{where}, key", key, (*names, FROM))
    start = _started_from(where, name, content)
    values = {key: value_of(f"{where}, {key}", key, value) for key, value in content.items() if key != FROM}
    if "base" in values and "axes" not in values:
        values["base"] = {**start.base, **values["base"]}
        values["axes"] = {name: axis for name, axis in start.axes.items() if name not in values["base"]}
    elif "axes" in values:
        base = {name: value for name, value in start.base.items() if name not in values["axes"]}
        values["base"] = {**base, **values.get("base", {})}
    twice = sorted(set(values.get("base", ())) & set(values.get("axes", ())))
    if twice:
        raise UserError(f"{where}: found {twice[0]} under base and under axes; expected it under one of them")
    values.setdefault(IF_POSSIBLE, tuple(field for field in start.if_possible if field not in values))
    sweep = replace(start, **{"name": name, **values})
    if not is_name(sweep.name):
        raise bad_value(f"{where}, name", sweep.name, "a name for the folder of the run")
    if not sweep.axes:
        raise UserError(f"{where}, axes: found none; expected at least one, such as sparsity: [50, 80]")
    check_rule(where, sweep)
    return sweep


def check_rule(where: str, sweep: Sweep) -> None:
    """Raise `UserError` if verdicts cannot be made by the terms of this sweep: endpoint, margin, level, claims."""
    try:
        Rule(endpoint=sweep.endpoint, margin_pp=sweep.margin_pp, alpha=sweep.alpha, looks=sweep.looks)
    except UserError as error:
        raise UserError(f"{where}, {error}") from error
    claims_of(f"{where}, {PUBLISHED}", sweep.published)


def as_yaml(sweep: Sweep) -> str:
    """The sweep as the content of a YAML file, which `read_recipe` reads as an equal sweep. Raises `UserError`."""
    import yaml  # takes a moment

    content: dict[str, Any] = {}
    for field in fields(sweep):
        value = getattr(sweep, field.name)
        if field.name in SELECTING:
            names = [name for name, function in SELECTIONS.items() if function is value]
            value = names[0] if names else f"{value.__module__}:{value.__qualname__}"
        elif field.name in ("base", "axes"):
            value = {name: list(entry) if isinstance(entry, tuple) else entry for name, entry in value.items()}
        elif isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        if value != {} and (field.default is MISSING or getattr(sweep, field.name) != field.default):
            content[field.name] = value
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)


# -- reading -----------------------------------------------------------------------------------------------------------


def _content(file: Path) -> dict[str, Any]:
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
        content = tomllib.loads(text) if file.suffix.lower() == ".toml" else yaml.load(text, Loader=_loader())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"recipe: cannot read {file} ({reason}); expected a recipe as YAML or TOML") from error
    except (tomllib.TOMLDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"recipe: {file} is not valid {file.suffix[1:].upper()} ({what})") from error
    if not isinstance(content, dict):
        raise bad_value(f"recipe {file}", content, "keys and values, such as axes: {sparsity: [50, 80]}")
    return content


def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that occurs twice, of which YAML would take the second in silence."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [key for key in keys if isinstance(key, str) and keys.count(key) > 1]
            if twice:
                raise yaml.constructor.ConstructorError(None, None, f"found {twice[0]!r} twice", node.start_mark)
            return dict(super().construct_mapping(node, deep))

    return Loader


def _started_from(where: str, name: str, content: Mapping[str, Any]) -> Sweep:
    start = content.get(FROM)
    if start is None:
        return Sweep(name=name, claim=f"Do the tickets of {name} match the dense network?", axes={})
    if not isinstance(start, str) or is_recipe_file(start):
        raise bad_value(f"{where}, {FROM}", start, f"one of {', '.join(RECIPES)}, or package.module:function")
    return find_recipe(start)


def value_of(where: str, key: str, value: Any) -> Any:
    """The value of a field of `Sweep`, with the type that it needs. Raises `UserError`."""
    if key in _TEXTS:
        if not isinstance(value, str):
            raise bad_value(where, value, "text")
        return value
    if key in _NUMBERS:
        return _number(where, value)
    if key in ("base", "axes"):
        if not isinstance(value, dict):
            raise bad_value(where, value, "fields of a trial, such as {lr: 0.002}")
        return dict(field_of(where, name, entry, is_axis=key == "axes") for name, entry in value.items())
    if key == PUBLISHED:
        if not isinstance(value, dict):
            raise bad_value(where, value, "claims and their margins, such as {lenet_early_stop_21: 10}")
        return {str(name): _number(f"{where}, {name}", margin) for name, margin in value.items()}
    if key in SELECTING:
        if not isinstance(value, str):
            raise bad_value(where, value, f"one of {', '.join(SELECTIONS)}, or package.module:function")
        return lookup(where, value, SELECTIONS)
    if key == "seeds" and isinstance(value, int) and not isinstance(value, bool):
        if not 0 < value <= MOST_SEEDS:
            raise bad_value(where, value, "the number of seeds, or a list of them")
        return tuple(range(value))
    kind = str if key in (*BRANCHES, IF_POSSIBLE) else int
    if isinstance(value, str) and (parts := value.replace(",", " ").split()):
        of = "names" if kind is str else "whole numbers"
        raise bad_value(where, value, f"a list of {of}", f"did you mean [{', '.join(parts)}]?")
    if not isinstance(value, list) or not all(type(entry) is kind for entry in value):
        raise bad_value(where, value, "a list of names" if kind is str else "a list of whole numbers")
    for entry in value if key == IF_POSSIBLE else ():
        if entry not in BRANCHES:
            raise unknown_name(where, entry, BRANCHES)
    return tuple(value)


def field_of(where: str, name: Any, entry: Any, is_axis: bool) -> tuple[str, Any]:
    """A field of a trial by its flag or its own name, and its value, or its values on an axis."""
    if isinstance(name, int | float):  # YAML reads {sparsity: 50,80} as {sparsity: 50, 80: null}
        raise bad_value(where, name, "a field of a trial", "several values are in brackets: sparsity: [50, 80]")
    plain = str(name).replace("-", "_")
    by_flag = {flag: field for field, flag in FLAG_OF.items()}
    field = by_flag.get(plain, plain)
    if field not in _FIELDS or field in NO_AXIS:
        raise unknown_name(where, str(name), sorted({FLAG_OF.get(f, f) for f in _FIELDS if f not in NO_AXIS}))
    if not is_axis and isinstance(entry, list):
        advice = f"several values belong under axes: {{{name}: {entry}}}"
        raise bad_value(f"{where}, {name}", entry, "one value", advice)
    if isinstance(entry, str) and ".." in entry and field not in WITH_COMMAS:
        advice = "ranges are for searches: python -m sweeps.lth_search, or sweeps.Search"
        raise bad_value(f"{where}, {name}", entry, "values, such as [50, 80]", advice)
    if isinstance(entry, str) and field not in WITH_COMMAS and _SEVERAL.fullmatch(entry):
        parts = ", ".join(entry.replace(",", " ").split())
        advice = f"several values are a list: [{parts}]" + ("" if is_axis else ", under axes")
        raise bad_value(f"{where}, {name}", entry, "one value", advice)
    if not is_axis:
        return field, _typed(f"{where}, {name}", field, entry)
    entries = entry if isinstance(entry, list) else [entry]
    if not entries:
        raise bad_value(f"{where}, {name}", entry, "at least one value")
    return field, tuple(_typed(f"{where}, {name}", field, one) for one in entries)


def _typed(where: str, field: str, value: Any) -> Any:
    """The value with the type of the field: YAML reads 1e-3 as text, and 50 as a whole number."""
    kinds: Iterable[type] = typing.get_args(hint := _hints()[field]) or (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = next(kind for kind in kinds if kind is not type(None))
    if kind is float:
        return _number(where, value)
    if field == "rewind_epoch" and isinstance(value, str):  # an iteration, such as 500it
        return value
    if field == SPLIT and value == OWN:
        return value
    if type(value) is not kind:
        shown = {int: "a whole number", bool: "true or false", str: "text"}[kind]
        shown += f", or {OWN}: each seed has a split of its own" if field == SPLIT else ""
        raise bad_value(where, value, shown)
    return value


def _number(where: str, value: Any) -> float:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError as error:
            raise bad_value(where, value, "a number") from error
    if not is_finite_number(value):
        raise bad_value(where, value, "a number")
    return float(value)


def _hints() -> dict[str, Any]:
    return typing.get_type_hints(TrialSpec)
