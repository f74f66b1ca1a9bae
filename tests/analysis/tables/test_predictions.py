"""Which images each network has right, as a table of one row an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.commands.predictions import main
from analysis.gather import gather
from analysis.tables.parquet import read_table
from analysis.tables.predictions import PREDICTIONS, SCHEMA, predictions_table
from analysis.tables.schema import table
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.image_bits import pack
from lth_trainable.store.store import Store, to_json
from tests.support.records import plan, record, seal

RIGHT = np.arange(360) % 9 != 0


def stored(store: Store, right: dict[str, str | None] | None) -> str:
    """A run of one finished trial whose record says this."""
    spec = TrialSpec(control="dense")
    more = {} if right is None else {"right": right}
    seal(Path(store.root), spec, record(spec, 0.9, more))
    store.write("run/plan.json", to_json(plan([spec])))
    gather(store.at("run"))
    return store.at("run")


def test_each_image_is_a_row(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run = stored(store, {"valid": None, "test": pack(RIGHT), "early_stop_test": pack(~RIGHT)})
    assert main([run]) == 0 and capsys.readouterr().out == f"{run}/analysis/predictions.parquet  720 rows\n"
    found = read_table(store, "run", PREDICTIONS)
    assert found is not None and found.schema.equals(SCHEMA)
    rows = found.to_pandas()
    assert list(rows.split.unique()) == ["test", "early_stop_test"]
    assert (rows.right[rows.split == "test"].to_numpy() == RIGHT).all()
    assert (rows.right[rows.split == "early_stop_test"].to_numpy() == ~RIGHT).all()
    assert (rows.image[rows.split == "test"].to_numpy() == np.arange(360)).all()


def test_a_run_of_an_earlier_version_has_none(store: Store) -> None:
    run = stored(store, None)
    with pytest.raises(UserError, match="found no trial whose record says which images it has right"):
        main([run])


def test_a_table_without_trials_has_no_rows() -> None:
    assert predictions_table(table("trials", [])).num_rows == 0
