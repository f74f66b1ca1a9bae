"""Arrow columns that carry their unit, source and description; the columns of a spec are made from its dataclass."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from lth_trainable.spec.trial_spec import TrialSpec

FORMAT = "1"
TEXT, INT, FLOAT, BOOL, BYTES = pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.binary()

_ARROW = {str: TEXT, int: INT, float: FLOAT, bool: BOOL}
_SPEC_UNITS = {
    "start_pct": "part of the fit (0..1)", "end_pct": "part of the fit (0..1)", "epochs": "epochs",
    "rewind_epoch": "epoch", "batch_size": "pictures", "prune_steps": "prunes",
}  # fmt: skip
_UNIT_OF_TYPE = {TEXT: "name", INT: "number", FLOAT: "number", BOOL: "true or false"}


def column(name: str, kind: pa.DataType, unit: str, source: str, description: str, nullable: bool = True) -> pa.Field:
    """A column of a table. Unit, source and description are stored in the Parquet file."""
    return pa.field(name, kind, nullable, {"unit": unit, "source": source, "description": description})


def table_schema(name: str, about: str, fields: Sequence[pa.Field]) -> pa.Schema:
    """The schema of the table `name`. about: what a row is."""
    return pa.schema(fields, metadata={"table": name, "rows": about, "format": FORMAT})


def spec_fields(spec: type = TrialSpec) -> list[pa.Field]:
    """One Arrow field per field of the spec dataclass: type from its annotation, description from its "help".

    `X | None` becomes X, nullable. Annotations other than str, int, float and bool become strings of JSON. The unit is
    the "unit" of the field if it has one, else percent for `*_pct`.
    """
    hints = typing.get_type_hints(spec)
    return [
        column(f.name, _arrow_type(hints[f.name]), _spec_unit(f, hints[f.name]), f"spec.{f.name}", _spec_help(f))
        for f in dataclasses.fields(spec)
    ]


def spec_columns(spec: Mapping[str, Any], of: type = TrialSpec) -> dict[str, Any]:
    """A canonical spec as values of columns: no-op values for fields that it leaves out, JSON for types that are not
    plain.

    Fields that this version does not know are left out too; `gather` refuses them before.
    """
    columns = {}
    for name, noop, is_text in _spec_layout(of):
        value = spec.get(name, noop)
        as_json = is_text and value is not None and not isinstance(value, str)
        columns[name] = json.dumps(value, sort_keys=True) if as_json else value
    return columns


@functools.cache
def _spec_layout(spec: type) -> list[tuple[str, Any, bool]]:
    """Name, no-op value, and whether the column is text, of each field."""
    kinds = {field.name: field.type for field in spec_fields(spec)}
    return [(f.name, f.metadata.get("noop"), kinds[f.name] == TEXT) for f in dataclasses.fields(spec)]


def _arrow_type(annotation: Any) -> pa.DataType:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(annotation) if a is not types.NoneType]
        annotation = options[0] if len(options) == 1 else None
    return _ARROW.get(annotation, TEXT)


def _spec_unit(field: dataclasses.Field[Any], annotation: Any) -> str:
    if "unit" in field.metadata:
        return str(field.metadata["unit"])
    if field.name in _SPEC_UNITS:
        return _SPEC_UNITS[field.name]
    return "per cent (0..100)" if field.name.endswith("_pct") else _UNIT_OF_TYPE[_arrow_type(annotation)]


def _spec_help(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("help", "")) or field.name.replace("_", " ")
