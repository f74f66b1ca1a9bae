"""What a search needs of Optuna's storage is there, and does what it needs, in the version that is installed."""

from __future__ import annotations

import inspect
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, RDBStorage

from sweeps.search.optuna_adapter import reopen


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("get_study_id_from_name", ["self", "study_name"]),
        ("get_trial_id_from_study_id_trial_number", ["self", "study_id", "trial_number"]),
        ("set_trial_state_values", ["self", "trial_id", "state"]),
    ],
)
def test_a_method_of_the_storage_takes_what_it_is_given(name: str, parameters: list[str]) -> None:
    found = getattr(BaseStorage, name, None)
    assert callable(found), (
        f"Optuna {optuna.__version__} has no BaseStorage.{name}: optuna_adapter.py needs another way"
    )
    needed = [p.name for p in inspect.signature(found).parameters.values() if p.default is p.empty]
    assert needed == parameters, f"Optuna {optuna.__version__}: {name} needs {needed}, and is given {parameters}"


def test_a_trial_that_was_never_told_is_asked_again_under_its_number(tmp_path: Path) -> None:
    storage = RDBStorage(f"sqlite:///{tmp_path}/study.db")
    study = optuna.create_study(study_name="s", storage=storage)
    first, second = study.ask(), study.ask()
    drawn = second.suggest_float("x", 0, 1)
    study.tell(first, 0.5)
    reopen(study, storage, lambda trial: True)
    again = study.ask()
    assert again.number == second.number and again.suggest_float("x", 0, 1) == drawn
    assert study.ask().number == second.number + 1
