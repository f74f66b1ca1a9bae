"""What a search needs of Optuna beyond its documented interface. Seen to work with Optuna 4.0 and 5.0.

`tests/sweeps/search/test_optuna_adapter.py` fails where a new version of Optuna has changed it.
"""

from __future__ import annotations

from optuna import Study
from optuna.storages import BaseStorage
from optuna.trial import TrialState


def reopen(study: Study, storage: BaseStorage) -> None:
    """Let `study.ask()` give the trials that were asked for and never told once more, first, under their numbers.

    Optuna's own way, `enqueue_trial`, gives them new numbers; what the sampler draws depends on the number.
    """
    study_id = storage.get_study_id_from_name(study.study_name)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        storage.set_trial_state_values(trial_id, TrialState.WAITING)
