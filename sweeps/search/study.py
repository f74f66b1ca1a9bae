"""The Optuna study of a search: ask it for suggestions, tell it their results.

By default it is the SQLite file `RUN/study.db`; it may be in another database, in a journal file, or an object of the
user's. `optuna-dashboard` opens it, also while the search runs. What is drawn for a suggestion depends only on the
sampler's seed, the suggestion's number and the suggestions before it; it does not depend on how often the search was
interrupted.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from lth_trainable.errors import StorageError, UserError, words_of
from lth_trainable.safe_text import one_line
from lth_trainable.store.contents import COUNT, NUMBER, PERCENT, TEXT
from lth_trainable.store.layout import Entries, ListOf
from lth_trainable.store.store import Store
from sweeps.search.axes import draw_point
from sweeps.search.optuna_adapter import claim_waiting, fixed_values, has_no_more, reopen, tell
from sweeps.search.places import Given, InRun, place_of
from sweeps.search.samplers import copy_of, sampler_of
from sweeps.search.searches import OWN, SAMPLERS, Search
from sweeps.search.ties import ID, check_fits, check_owner, check_terms, directions_of, id_of, is_mine, note_place, tie

ON_WAY, AGAIN = "on_the_way_of", "again"  # attributes of trials
NOTES = Entries(
    others={
        "trials": ListOf(of=TEXT), "keys": ListOf(of=TEXT), ON_WAY: COUNT, AGAIN: COUNT, "reason": TEXT,
        "accuracy": NUMBER, "sparsity": PERCENT, "epochs": NUMBER,
    },
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A suggestion. point: a value for every axis that has an effect. on_way: it is a level of an earlier one."""

    number: int
    point: Mapping[str, Any]
    on_way: bool = False


class Study:
    """The study of a run. Raises `UserError` if it cannot be read, or is one of a different search.

    at: where it is, if not in the run's folder: the URL of a database, the path of a journal file, or a study that the
    user has made, whose sampler and pruner are used as they are. is_exhausted: its sampler has nothing left to suggest.
    """

    def __init__(self, search: Search, store: Store, run: str, at: str | optuna.Study | None = None) -> None:
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.search = replace(search, sampler=OWN) if isinstance(at, optuna.Study) else search
        self.store, self.run = store, run
        self._place = place_of(at, store, run)
        self._id = id_of(store, run, self._place)
        self.uri, self.can_be_opened = self._place.shown, self._place.can_be_opened
        self._open: dict[int, Trial] = {}
        with self._readable():
            self._storage = self._place.open()
            self._study = at if isinstance(at, optuna.Study) else self._made()
            self._begin()
            self.is_exhausted = has_no_more(self._study)

    def _made(self) -> optuna.Study:
        """The study of this name, made if there is none. It keeps the directions that it was made with."""
        search = self.search
        acts: dict[str, Any] = {
            "study_name": self.run, "storage": self._storage, "sampler": sampler_of(search), "pruner": _pruner(search),
        }  # fmt: skip
        try:  # not by `load_if_exists`: in a database whose maker was killed, Optuna may lack the index it relies on
            return optuna.load_study(**acts)
        except KeyError:
            return optuna.create_study(directions=directions_of(search), **acts)

    def _begin(self) -> None:
        path = self.store.at(self.run)
        check_owner(self._study, self._place, self.store, self.run, self._id)
        check_terms(self._study, self.search, path)
        check_fits(self._study, self.search, self._place)
        note_place(self.store, self.run, self._place, self._id)  # only now, so that a mistake does not bind the run
        tie(self._study, self.search, path, self._id)
        for trial in self.trials():
            NOTES.check(f"suggestion {trial.number}", dict(trial.user_attrs))
        # so that what cannot be read shows now, before anything is trained
        copy_of(self._study, self._study.get_trials(deepcopy=False))
        _ = self.front, self.n_told
        # suggestions that an earlier command asked for and never told
        reopen(self._study, self._storage, lambda trial: is_mine(trial, self._id))

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Raise `StorageError` where its storage fails, or `UserError` if it is not a study as we write it."""
        try:
            yield
        except (UserError, StorageError):
            raise
        except Exception as error:  # of SQLAlchemy, SQLite and Optuna, which trust what is in the file
            if (trouble := self._place.trouble(error)) is not None:
                raise trouble from error
            told = one_line(str(error).partition("\n")[0])
            is_in_run = isinstance(self._place, InRun)
            where = f"{self.store.at(self._place.path)}" if isinstance(self._place, InRun) else f"study {self.uri}"
            advice = "move it away and start again: trained trials stay" if is_in_run else "choose another study"
            raise UserError(f"{where}: cannot be read as a study ({type(error).__name__}: {told}); {advice}") from error

    @contextlib.contextmanager
    def _disk_checked(self) -> Iterator[None]:
        """Raise `StorageError` where the study's storage fails."""
        try:
            yield
        except Exception as error:  # of SQLAlchemy, SQLite and Optuna
            if (trouble := self._place.trouble(error)) is not None:
                raise trouble from error
            raise

    @contextlib.contextmanager
    def _own_checked(self) -> Iterator[None]:
        """Raise `UserError` where a sampler or pruner that the user has made fails."""
        try:
            yield
        except Exception as error:  # somebody else's code may raise anything
            is_ours = self.search.sampler in SAMPLERS
            if is_ours or isinstance(error, UserError | StorageError) or self._place.trouble(error) is not None:
                raise
            if self.search.sampler == OWN:
                who = f"{type(self._study.sampler).__name__} or {type(self._study.pruner).__name__} of your own study"
            else:
                who = self.search.sampler
            raise UserError(f"search: {who} failed: {type(error).__name__}: {words_of(error)}") from error

    # -- asking and telling ------------------------------------------------------------------------------------------

    def ask(self) -> Asked:
        """The next suggestion. Those that an earlier command left open come first, then those that somebody queued."""
        while True:
            with self._disk_checked(), self._own_checked():
                if self._id is not None and not claim_waiting(self._study, ID, self._id):
                    # one step, so that no trial of ours is ever without its mark
                    self._study.add_trial(create_trial(state=TrialState.WAITING, user_attrs={ID: self._id}))
                trial = self._study.ask()
                self._open[trial.number] = trial
                try:
                    point = draw_point(trial, self.search.sweep.base, self.search.axes)
                except ValueError as error:
                    if isinstance(error, UserError) or not fixed_values(trial):
                        raise
                    self.fail(trial.number, f"it was queued with a value that is not on its axis: {error}")
                    continue
            self._place.save()
            return Asked(number=trial.number, point=point, on_way=ON_WAY in trial.user_attrs)

    def ask_on_way(self, number: int, point: Mapping[str, Any]) -> None:
        """Queue a point that the suggestion of this number has trained as one of its levels."""
        with self._disk_checked():
            self._study.enqueue_trial(dict(point), user_attrs={ON_WAY: number, **self._mark}, skip_if_exists=True)

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
        with self._disk_checked(), self._own_checked():
            self._open[number].report(value, step=reduction**stage)
            return not self._open[number].should_prune()

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials of this search in these states (default: all), by number."""
        with self._disk_checked():
            return [t for t in self._study.get_trials(deepcopy=False, states=states or None) if is_mine(t, self._id)]

    @property
    def n_told(self) -> int:
        """Number of closed suggestions: done, stopped, or failed and not asked again. Levels of others do not count."""
        ended = [t for t in self.trials(TrialState.COMPLETE, TrialState.PRUNED) if ON_WAY not in t.user_attrs]
        return len(ended) + len(self._failed)

    @property
    def notes(self) -> list[str]:
        """What the user should know of a study that is not the run's own, one line each."""
        found = []
        if self.search.sampler == OWN:
            sampler = type(self._study.sampler).__name__
            found.append(
                f"the study's own {sampler} chooses the points, with random numbers of its own: a search that was "
                "interrupted goes on with other points than it would have had"
            )
        if isinstance(self._place, Given) and self._place.is_in_memory:
            found.append("the study is in memory: once this process has ended a new one begins; trained trials stay")
        if self.n_queued:
            found.append(f"trials that somebody has queued in the study: {self.n_queued}; they come first, and count")
        if self.n_of_others:
            found.append(
                f"trials in the study that are not of this search: {self.n_of_others}; its sampler learns from them, "
                "and they are neither counted nor shown"
            )
        return found

    @property
    def n_of_others(self) -> int:
        """Number of trials in the study that are not of this search. Samplers learn from them."""
        return len(self._study.get_trials(deepcopy=False)) - len(self.trials()) - self.n_queued

    @property
    def n_queued(self) -> int:
        """Number of trials that somebody else has queued: this search will ask for them."""
        queued = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return sum(not is_mine(trial, self._id) for trial in queued)

    @property
    def has_waiting(self) -> bool:
        with self._disk_checked():
            return bool(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    @property
    def front(self) -> set[int]:
        """Numbers of the suggestions on the Pareto front; with one objective, of the best suggestion."""
        return self.front_without(())

    def front_without(self, others: Collection[int]) -> set[int]:
        """The same, as if these suggestions were not there."""
        done = [trial for trial in self.trials(TrialState.COMPLETE) if trial.number not in others]
        return {done[best.number].number for best in copy_of(self._study, done).best_trials} if done else set()

    def ask_again(self) -> int:
        """Queue the suggestions whose trials failed once more. Returns how many."""
        failed = self._failed
        for trial in failed:
            self._study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number, **self._mark})
        return len(failed)

    @property
    def _failed(self) -> list[FrozenTrial]:
        """Suggestions whose trials failed and that were not asked again, without points that are no valid trial."""
        again = {trial.user_attrs.get(AGAIN) for trial in self.trials()}
        failed = [t for t in self.trials(TrialState.FAIL) if "trials" in t.user_attrs and ON_WAY not in t.user_attrs]
        return [trial for trial in failed if trial.number not in again]

    def close(self) -> None:
        self._storage.remove_session()
        self._place.save()

    # -- internals ---------------------------------------------------------------------------------------------------

    @property
    def _mark(self) -> dict[str, str]:
        """The attribute by which a trial in a study of several is known as one of this search."""
        return {} if self._id is None else {ID: self._id}

    def _end(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        with self._disk_checked(), self._own_checked():
            self.is_exhausted |= tell(self._study, self._open.pop(number), values, state)
        self._place.save()


def _pruner(search: Search) -> BasePruner:
    """Successive halving, if the search uses it."""
    if search.reduction is None:
        return NopPruner()
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=search.reduction)
