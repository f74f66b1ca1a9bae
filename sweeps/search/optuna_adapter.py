"""What a search needs of Optuna beyond its documented interface. Seen to work with Optuna 4.0 and 5.0.

`tests/sweeps/search/test_optuna_adapter.py` fails where a new version of Optuna has changed it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.samplers import GridSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import get_lock_file
from optuna.trial import FrozenTrial, Trial, TrialState

_FIXED = "fixed_params"  # where `enqueue_trial` puts the values of a trial


def reopen(study: Study, storage: BaseStorage, is_mine: Callable[[FrozenTrial], bool]) -> None:
    """Let `study.ask()` give trials of mine that were asked for and never told once more, first, under their numbers.

    Optuna's own way, `enqueue_trial`, gives them new numbers; what the sampler draws depends on the number.
    """
    study_id = storage.get_study_id_from_name(study.study_name)
    for trial in filter(is_mine, study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))):
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        storage.set_trial_state_values(trial_id, TrialState.WAITING)


def fixed_values(trial: FrozenTrial | Trial) -> dict[str, Any]:
    """The values that `enqueue_trial` has fixed for a trial. They are not drawn."""
    noted = trial.storage.get_trial_system_attrs(trial._trial_id) if isinstance(trial, Trial) else trial.system_attrs
    return dict(noted.get(_FIXED, {}))


def notes_of_sampler(trial: FrozenTrial) -> dict[str, Any]:
    """What a sampler has noted on a trial that it drew, such as the generation that NSGA-II counts it to."""
    return {name: note for name, note in trial.system_attrs.items() if name != _FIXED}


def write_notes_of_sampler(study: Study, trial: FrozenTrial, notes: Mapping[str, Any]) -> None:
    """Write such notes on the trial of another study."""
    for name, note in notes.items():
        study._storage.set_trial_system_attr(trial._trial_id, name, note)


def claim_waiting(study: Study, key: str, value: str) -> bool:
    """Mark the trials that wait to be asked for with a user attribute. Returns whether there are any."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    for trial in waiting:
        if trial.user_attrs.get(key) != value:
            study._storage.set_trial_user_attr(trial._trial_id, key, value)
    return bool(waiting)


def tell(study: Study, trial: Trial, values: Sequence[float] | None, state: TrialState) -> bool:
    """Close a trial. Returns whether the study's sampler has nothing left to suggest.

    A sampler says so by `Study.stop`, which outside `Study.optimize` raises once the trial is closed.
    """
    try:
        study.tell(trial, values, state)
    except RuntimeError as error:
        if "Study.stop" not in str(error):
            raise
        return True
    return False


def has_no_more(study: Study) -> bool:
    """Whether a study begins with a grid all of whose points have been suggested."""
    return isinstance(study.sampler, GridSampler) and study.sampler.is_exhausted(study)


def backend_of(study: Study) -> BaseStorage:
    """The storage of a study, without the cache that Optuna puts before a database."""
    storage = study._storage
    return storage._backend if isinstance(storage, _CachedStorage) else storage


def file_of(storage: BaseStorage) -> str | None:
    """The path of a journal file; None for another storage."""
    return getattr(getattr(storage, "_backend", None), "_file_path", None)


def journal(path: str) -> BaseStorage:
    """A journal file. What a killed process has left half-written at its end is cut off, since Optuna stops there.

    path: absolute, since Optuna's lock is a link to the path, and waits for ever if it leads nowhere.
    """
    backend = JournalFileBackend(path)
    with get_lock_file(JournalFileSymlinkLock(path)), open(path, "rb+") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
    return JournalStorage(backend)
