"""The samplers of a search. What they draw follows from the seed, the suggestion's number and those before it.

Optuna's samplers keep random numbers and caches in memory, and write down what they draw piece by piece, so a process
that is killed and started again would draw something else. Here a new sampler draws each suggestion, all its values at
once, in a copy of the study that holds the earlier suggestions and nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from lth_trainable.errors import UserError, bad_value, words_of
from lth_trainable.registry import lookup
from lth_trainable.seeds import derive_seed
from sweeps.search.axes import all_points, draw_point
from sweeps.search.optuna_adapter import fixed_values, notes_of_sampler, write_notes_of_sampler
from sweeps.search.searches import GRID, Search

STARTUP = 8  # suggestions drawn at random, before the sampler learns
Point = dict[str, Any]


class Repeatable(BaseSampler):
    """Draws each suggestion with a new sampler, from what was suggested before: after a kill it draws the same again.

    make: the sampler of a seed. draw: gives a trial of Optuna a value for every axis that has an effect.
    """

    def __init__(self, seed: int, make: Callable[[int], BaseSampler], draw: Callable[[BaseTrial], Any]) -> None:
        self._seed, self._make, self._draw = seed, make, draw
        self._number, self._point = -1, Point()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> Point:
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, dist: Any) -> Any:
        if trial.number != self._number:
            self._point = self._drawn(study, trial)
            self._number = trial.number
        return self._point[param_name]

    def _drawn(self, study: optuna.Study, trial: FrozenTrial) -> Point:
        sampler = self._make(derive_seed(self._seed, "suggestion", trial.number) % 2**32)
        earlier = (other for other in study.get_trials(deepcopy=False) if other.number < trial.number)
        copy = copy_of(study, earlier, sampler)
        if fixed := fixed_values(trial):  # by whoever queued it
            copy.enqueue_trial(fixed)
        self._draw(copy.ask())
        drawn = copy.get_trials(deepcopy=False)[-1]
        write_notes_of_sampler(study, trial, notes_of_sampler(drawn))
        return drawn.params


def copy_of(
    study: optuna.Study, trials: Sequence[FrozenTrial] | Any, sampler: BaseSampler | None = None
) -> optuna.Study:
    """A study in memory with the same directions and these of its trials, but for those that wait to be asked for."""
    copy = optuna.create_study(directions=study.directions, sampler=sampler)
    copy.add_trials(trial for trial in trials if trial.state is not TrialState.WAITING)
    return copy


def sampler_of(search: Search) -> BaseSampler:
    """The sampler that a search names. Raises `UserError` for an unknown name, or axes that it cannot draw."""
    base, axes = search.sweep.base, search.axes

    def draw(trial: BaseTrial) -> None:
        draw_point(trial, base, axes)

    if search.sampler == GRID:
        points = all_points(base, axes)
        random.Random(search.sampler_seed).shuffle(points)
        return Repeatable(search.sampler_seed, lambda _: _Points(points), draw)
    make = lookup("sampler", search.sampler, MAKERS)
    return Repeatable(search.sampler_seed, lambda seed: _made(search.sampler, make, seed), draw)


def _made(name: str, make: Callable[[int], BaseSampler], seed: int) -> BaseSampler:
    try:
        made = make(seed)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # any exception here is a mistake in the user's function
        raise UserError(f"sampler: {name!r} cannot be made: {type(error).__name__}: {words_of(error)}") from error
    if not isinstance(made, BaseSampler):
        raise bad_value("sampler", name, "a function of a seed that returns a sampler of Optuna", type(made).__name__)
    return made


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP)


def _gp(seed: int) -> BaseSampler:
    """A Gaussian process. It learns only from axes that act in every suggestion; the others are drawn at random."""
    return GPSampler(seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False)


class _NSGA2(NSGAIISampler):
    """NSGA-II in a copy of the study, which knows the generation of each trial, but not the parents of a generation."""

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> Point:
        for generation in range(1, self.get_trial_generation(study, trial)):
            self.get_parent_population(study, generation)  # in order: its own way is to call itself for each generation
        return super().sample_relative(study, trial, search_space)


def _nsga2(seed: int) -> BaseSampler:
    return _NSGA2(seed=seed, population_size=STARTUP)


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


MAKERS: Mapping[str, Callable[[int], BaseSampler]] = {"tpe": _tpe, "gp": _gp, "nsga2": _nsga2, "random": _random}


class _Points(BaseSampler):
    """The points of a grid, one after the other: the first that no earlier trial has.

    Optuna's own `GridSampler` takes no axes that have an effect in some trials only.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self._points = points

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> Point:
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, dist: Any) -> Any:
        had = [other.params for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        left = [point for point in self._points if point not in had]
        fitting = [p for p in left if all(p.get(name) == value for name, value in trial.params.items())]
        if not fitting:
            raise UserError(f"search: all {len(self._points)} points of the grid have been suggested")
        return fitting[0][param_name]
