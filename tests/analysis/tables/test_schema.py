"""Every column explains itself, in the Parquet too; a new spec field appears without anyone's help."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

import analysis
from analysis.tables import schema
from analysis.tables.columns import spec_columns, spec_fields
from analysis.tables.parquet import OPTIONAL
from lth_trainable.spec.trial_spec import TrialSpec
from tests.support.records import dense, drops, ladder, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("runs"), [*dense(2), *ladder(64, seeds=2)], drops({None: 0.96, 64: 0.95}))
    analysis.gather(run)
    return run


@pytest.mark.parametrize("name", [name for name in schema.TABLES if name not in OPTIONAL])
def test_the_parquet_says_unit_source_and_description_of_every_column(run: Path, name: str) -> None:
    found = parquet.read_schema(run / "analysis" / f"{name}.parquet")
    assert found.equals(schema.TABLES[name], check_metadata=True)
    for field in found:
        about = {key.decode(): value.decode() for key, value in field.metadata.items() if b"PARQUET" not in key}
        assert set(about) == {"unit", "source", "description"}, field.name
        assert all(about.values()), field.name


@pytest.mark.parametrize("name", schema.TABLES)
def test_units_follow_the_names(name: str) -> None:
    fit_parts = {"start_pct", "end_pct"}  # fastai's own names, parts of the fit
    for field in schema.TABLES[name]:
        unit = field.metadata[b"unit"].decode()
        assert (unit == "per cent (0..100)") == (field.name.endswith("_pct") and field.name not in fit_parts)
        assert (unit == "percentage points") == field.name.endswith("_pp")
        is_accuracy = field.name.endswith("accuracy") and not field.name.startswith("epochs_to_")
        assert (unit == "fraction (0..1)") == is_accuracy


def test_spec_columns_have_the_specs_types_and_help() -> None:
    types = {field.name: field.type for field in schema.TRIALS}
    for field in dataclasses.fields(TrialSpec):
        assert field.name in types
    assert (types["dataset"], types["seed"], types["lr"]) == (pa.string(), pa.int64(), pa.float64())
    assert (types["rewind_epoch"], types["beta2"], types["reset_end"]) == (pa.int64(), pa.float64(), pa.bool_())
    help_text = next(f for f in dataclasses.fields(TrialSpec) if f.name == "epochs").metadata["help"]
    assert schema.TRIALS.field("epochs").metadata[b"description"].decode() == help_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaterSpec(TrialSpec):
    warmup_pct: float | None = dataclasses.field(default=None, metadata={"help": "part of the warm-up"})
    rewind_point: int | str = dataclasses.field(default=0, metadata={"help": "epoch or iteration", "unit": "either"})
    nesterov: bool = dataclasses.field(default=True, metadata={"noop": True})


def test_a_new_spec_field_appears_on_its_own() -> None:
    found = {field.name: field for field in spec_fields(LaterSpec)}
    assert set(found) == {*schema.SPEC_FIELDS, "warmup_pct", "rewind_point", "nesterov"}
    assert (found["warmup_pct"].type, found["warmup_pct"].metadata[b"unit"]) == (pa.float64(), b"per cent (0..100)")
    assert (found["rewind_point"].type, found["rewind_point"].metadata[b"unit"]) == (pa.string(), b"either")
    assert found["nesterov"].type == pa.bool_()
    assert found["nesterov"].metadata[b"description"]


def test_a_field_that_a_record_leaves_out_is_at_its_no_op_value() -> None:
    content = TrialSpec(seed=3).canonical() | {"rewind_point": 500}
    columns = spec_columns(content, LaterSpec)
    assert (columns["seed"], columns["nesterov"], columns["warmup_pct"]) == (3, True, None)
    assert columns["rewind_point"] == "500", "a type that is not plain is JSON"


def test_empty_tables_keep_their_types() -> None:
    for name, expected in schema.TABLES.items():
        assert schema.table(name, []).schema.equals(expected, check_metadata=True)


def test_a_column_that_the_schema_lacks_is_not_dropped_silently() -> None:
    with pytest.raises(KeyError, match="speling"):
        schema.table("layers", [{"trial": "a", "speling": 1}])
