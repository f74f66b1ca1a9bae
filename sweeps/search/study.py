"""The Optuna study of a search, in the file `RUN/study.db`: ask it for suggestions, tell it their results.

The file is SQLite: `optuna-dashboard sqlite:///RUN/study.db` opens it, also while the search runs. What is drawn for a
suggestion depends only on the sampler's seed, the suggestion's number and the results told before; it does not depend
on how often the search was interrupted.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from lth_trainable.errors import StorageError, UserError
from lth_trainable.safe_text import one_line
from lth_trainable.seeds import derive_seed
from lth_trainable.store.contents import COUNT, NUMBER, PERCENT, TEXT
from lth_trainable.store.layout import Entries, ListOf
from lth_trainable.store.local_files import check_own
from lth_trainable.store.store import Store
from lth_trainable.store.trouble import EXPECTED, GO_ON
from sweeps.search.axes import draw_order, draw_point
from sweeps.search.optuna_adapter import reopen
from sweeps.search.searches import OBJECTIVES, Search

STUDY = "study.db"
STARTUP = 8  # suggestions drawn at random, before the sampler learns
TERMS, ON_WAY, AGAIN = "terms", "on_the_way_of", "again"  # attributes of the study and its trials
_SICK = re.compile(  # SQLite's words for a disk that fails; what else goes wrong is the file's fault
    "readonly database|disk I/O error|unable to open database|disk is full|attempt to write a readonly"
)
NOTES = Entries(
    others={
        "trials": ListOf(of=TEXT), ON_WAY: COUNT, AGAIN: COUNT, "reason": TEXT, "accuracy": NUMBER, "sparsity": PERCENT,
        "epochs": NUMBER,
    },
)  # fmt: skip
_DIRECTION = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A suggestion. point: a value for every axis that has an effect. on_way: it is a level of an earlier one."""

    number: int
    point: Mapping[str, Any]
    on_way: bool = False


class Study:
    """The study of a run. Raises `UserError` if its file is not a study, or is one of a different search."""

    def __init__(self, search: Search, store: Store, run: str) -> None:
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.search, self.store, self.run = search, store, run
        self._file = _File(store, f"{run}/{STUDY}")
        self.uri = self._file.uri
        with self._readable():
            self._storage = optuna.storages.RDBStorage(self._file.uri)
            self._study = optuna.create_study(
                study_name=run, storage=self._storage, load_if_exists=True,
                sampler=_Sampler(search.sampler_seed, draw_order(search.axes)), pruner=_pruner(search),
                directions=[_DIRECTION[OBJECTIVES[name]] for name in search.objectives],
            )  # fmt: skip
            self._begin(search)
        self._open: dict[int, Trial] = {}

    def _begin(self, search: Search) -> None:
        self._check_terms()
        self._study.set_metric_names(list(search.objectives))
        for trial in self.trials():
            NOTES.check(f"suggestion {trial.number}", dict(trial.user_attrs))
        _ = self.front, self.n_told  # so that what cannot be read shows now, before anything is trained
        reopen(self._study, self._storage)  # suggestions that an earlier command asked for and never told

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Raise `StorageError` because of the disk, or `UserError` if the file is not a study as we write it."""
        try:
            yield
        except (UserError, StorageError):
            raise
        except Exception as error:  # of SQLAlchemy, SQLite and Optuna, which trust what is in the file
            _check_disk(error, self.uri)
            told = one_line(str(error).partition("\n")[0])
            raise UserError(
                f"{self.store.at(self.run)}/{STUDY}: cannot be read as a study ({type(error).__name__}: {told}); "
                "move it away and start again: trained trials stay"
            ) from error

    @contextlib.contextmanager
    def _disk_checked(self) -> Iterator[None]:
        """Raise `StorageError` where SQLite cannot use its file because of the disk."""
        try:
            yield
        except Exception as error:  # of SQLAlchemy, SQLite and Optuna
            _check_disk(error, self.uri)
            raise

    # -- asking and telling ------------------------------------------------------------------------------------------

    def ask(self) -> Asked:
        """The next suggestion. Those that an earlier command left open come first."""
        with self._disk_checked():
            trial = self._study.ask()
            point = draw_point(trial, self.search.sweep.base, self.search.axes)
        self._open[trial.number] = trial
        self._file.save()
        return Asked(number=trial.number, point=point, on_way=ON_WAY in trial.user_attrs)

    def ask_on_way(self, number: int, point: Mapping[str, Any]) -> None:
        """Queue a point that the suggestion of this number has trained as one of its levels."""
        with self._disk_checked():
            self._study.enqueue_trial(dict(point), user_attrs={ON_WAY: number}, skip_if_exists=True)

    @property
    def trained(self) -> set[str]:
        """Names of the trials of all suggestions."""
        return {name for trial in self.trials() for name in trial.user_attrs.get("trials", ())}

    def note(self, number: int, **notes: Any) -> None:
        """Set attributes of an open suggestion; the dashboard shows them, too."""
        with self._disk_checked():
            for key, value in notes.items():
                self._open[number].set_user_attr(key, value)

    def tell(self, number: int, values: Mapping[str, float]) -> None:
        """Give a suggestion its objective values and close it."""
        self._end(number, TrialState.COMPLETE, [values[name] for name in self.search.objectives])

    def fail(self, number: int, reason: str) -> None:
        """Close a suggestion that failed."""
        self.note(number, reason=reason)
        self._end(number, TrialState.FAIL)

    def stop(self, number: int) -> None:
        """Close a suggestion that successive halving ends early."""
        self._end(number, TrialState.PRUNED)

    def is_worth_going_on(self, number: int, stage: int, value: float) -> bool:
        """Report the objective at a stage (0, 1, ...). Returns whether it is among the best 1/reduction there so far.

        Asynchronous successive halving, Li et al., arXiv 1810.05934, algorithm 2, by Optuna's pruner.
        """
        reduction = self.search.reduction
        assert reduction is not None
        with self._disk_checked():
            self._open[number].report(value, step=reduction**stage)
            return not self._open[number].should_prune()

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The study's trials in these states (default: all), by number."""
        with self._disk_checked():
            return self._study.get_trials(deepcopy=False, states=states or None)

    @property
    def n_told(self) -> int:
        """Number of closed suggestions: done, stopped, or failed and not asked again. Levels of others do not count."""
        ended = [t for t in self.trials(TrialState.COMPLETE, TrialState.PRUNED) if ON_WAY not in t.user_attrs]
        return len(ended) + len(self._failed)

    @property
    def has_waiting(self) -> bool:
        return bool(self.trials(TrialState.WAITING))

    @property
    def front(self) -> set[int]:
        """Numbers of the suggestions on the Pareto front; with one objective, of the best suggestion."""
        return {trial.number for trial in self._study.best_trials} if self.trials(TrialState.COMPLETE) else set()

    def ask_again(self) -> int:
        """Queue the suggestions whose trials failed once more. Returns how many."""
        failed = self._failed
        for trial in failed:
            self._study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})
        return len(failed)

    @property
    def _failed(self) -> list[FrozenTrial]:
        """Suggestions whose trials failed and that were not asked again, without points that are no valid trial."""
        again = {trial.user_attrs.get(AGAIN) for trial in self.trials()}
        failed = [t for t in self.trials(TrialState.FAIL) if "trials" in t.user_attrs and ON_WAY not in t.user_attrs]
        return [trial for trial in failed if trial.number not in again]

    def close(self) -> None:
        self._storage.remove_session()
        self._file.save()

    # -- internals ---------------------------------------------------------------------------------------------------

    def _end(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        with self._disk_checked():
            self._study.tell(self._open.pop(number), values, state)
        self._file.save()

    def _check_terms(self) -> None:
        terms, known = self.search.terms(), json.loads(self._study.user_attrs.get(TERMS, "null"))
        if known is not None:
            Entries().check(TERMS, known)
        if known is None:
            self._study.set_user_attr(TERMS, json.dumps(terms))
            return
        for name, value in terms.items():
            if known.get(name) != value:
                raise UserError(
                    f"{self.store.at(self.run)}: its search began with {name} {known.get(name)!r}; found {value!r}; "
                    "choose another --name"
                )


def _check_disk(error: BaseException, uri: str) -> None:
    """Raise `StorageError` if SQLite says that the disk of the study's file fails."""
    told: BaseException | None = error
    while told is not None:
        if _SICK.search(str(told)):
            why = one_line(str(told).splitlines()[0])
            raise StorageError(
                f"study {uri}: found a file that cannot be written ({why}); expected {EXPECTED}; see that there is "
                f"space and that this user may write there, {GO_ON}"
            ) from error
        told = told.__cause__


def _pruner(search: Search) -> BasePruner:
    """Successive halving, if the search uses it."""
    if search.reduction is None:
        return NopPruner()
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=search.reduction)


class _Sampler(BaseSampler):
    """Optuna's TPE sampler, a new one for each suggestion: its random numbers depend only on seed and number.

    A process may be killed while it draws a suggestion, and the next one draws the rest. Then what was drawn already is
    drawn once more, and thrown away, so that the rest gets the random numbers that it would have had. names: of the
    axes, in the order in which they are drawn.
    """

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self.seed, self._names, self._number = seed, tuple(names), -1
        self._inner = TPESampler()
        self._drawn: list[str] = []  # by an earlier process, one after the other

    def _of(self, trial: FrozenTrial) -> TPESampler:
        if trial.number != self._number:
            self._number = trial.number
            self._drawn = [name for name in self._names if name in trial.distributions]
            self._inner = TPESampler(
                seed=derive_seed(self.seed, "suggestion", trial.number) % 2**32, multivariate=True, group=True,
                constant_liar=True, n_startup_trials=STARTUP,
            )  # fmt: skip
        return self._inner

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        together = self._of(trial).sample_relative(study, trial, search_space)
        self._drawn = [name for name in self._drawn if name not in together]
        return together

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, dist: Any) -> Any:
        inner, drawn = self._of(trial), self._drawn
        self._drawn = []
        for name in drawn:
            inner.sample_independent(study, trial, name, trial.distributions[name])
        return inner.sample_independent(study, trial, param_name, dist)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._of(trial).after_trial(study, trial, state, values)


class _File:
    """The study's file: in the run's folder; for an object store a local file, copied there after each change."""

    def __init__(self, store: Store, path: str) -> None:
        self.store, self.path = store, path
        self._folder = tempfile.TemporaryDirectory() if "://" in store.uri else None
        self.local = Path(self._folder.name, STUDY) if self._folder else Path(store.root, path)
        if self._folder is None:
            for ending in ("", "-journal", "-wal", "-shm"):  # SQLite follows links, and waits for pipes
                check_own(store.root, f"{path}{ending}", "file")
            self.local.parent.mkdir(parents=True, exist_ok=True)
        elif store.exists(path):
            self.local.write_bytes(store.read(path))
        self.uri = f"sqlite:///{self.local}"

    def save(self) -> None:
        if self._folder is not None:
            self.store.write(self.path, self.local.read_bytes())
