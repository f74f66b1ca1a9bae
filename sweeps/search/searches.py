"""The named searches, one function each: the axes over which Optuna looks for the best tickets, and the objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from lth_trainable.errors import PLUG_IN, UserError, bad_value, check_sparsity, unknown_name
from lth_trainable.registry import make
from lth_trainable.scalars import plain_fields
from sweeps.experiments.expand import check_seeds
from sweeps.experiments.recipe_files import any_recipe, is_recipe_file
from sweeps.experiments.recipes import RECIPES, Sweep, digits, every_point
from sweeps.search.axes import Axis, Choice, Range, all_points, check_axes

MOST, LEAST = "max", "min"
TPE, GRID, OWN = "tpe", "grid", "own"  # own: of a study that the user has made
SAMPLERS = (TPE, "gp", "nsga2", "random", GRID)
OBJECTIVES = {"accuracy": MOST, "sparsity": MOST, "epochs": LEAST}
COMPARED_WITH = ("dense", "dense_to_first_prune")  # the baselines that a search can have


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search for the best tickets: axes, and the objectives to optimise over them.

    sweep: what all trials share (fields, seeds, baselines, terms of the verdict); it has no axes of its own. axes: by
    spec field. objectives: names in `OBJECTIVES`. score: how accuracy is measured, always on the validation split after
    the last epoch: its mean over the seeds ("mean"), or the mean difference from the dense trial of the same seed
    ("paired", in percentage points). floor: lowest sparsity (percent), if accuracy is the only objective. reduction:
    factor of successive halving, None for none. rungs: its stages, each at the end of a level. sampler: how Optuna
    chooses points, "tpe", "gp", "nsga2", "random", "grid" (every point once), or "package.module:function", a function
    of a seed that returns a sampler of Optuna. sampler_seed: of its random numbers.
    """

    sweep: Sweep
    axes: Mapping[str, Axis] = field(default_factory=lambda: MappingProxyType({}))
    suggestions: int = 24
    objectives: tuple[str, ...] = ("accuracy", "sparsity")
    score: str = "mean"
    floor: float | None = None
    reduction: int | None = None
    rungs: int = 3
    sampler: str = TPE
    sampler_seed: int = 0

    def __post_init__(self) -> None:
        plain_fields(self, "suggestions", "floor", "reduction", "rungs", "sampler_seed")

    def terms(self) -> dict[str, Any]:
        """What may not change when a study is continued."""
        return {
            "base": {name: str(value) for name, value in sorted(self.sweep.base.items())},
            "axes": {name: str(axis) for name, axis in sorted(self.axes.items())},
            "seeds": list(self.sweep.seeds), "objectives": list(self.objectives), "score": self.score,
            "reduction": self.reduction, "rungs": self.rungs, "sampler": self.sampler,
            "sampler_seed": self.sampler_seed,
        }  # fmt: skip

    def check(self) -> Search:
        """This search with single values fixed, sparsities above the floor, and a grid's number of points.

        Controls and baselines that a recipe has only where they are possible are left out, as far as a search has none.

        Raises `UserError` if it is invalid.
        """
        if self.suggestions < 1:
            raise bad_value("suggestions", self.suggestions, "at least 1")
        check_seeds(self.sweep.seeds)
        if self.sampler not in SAMPLERS and ":" not in self.sampler:
            raise unknown_name("sampler", self.sampler, SAMPLERS, otherwise=PLUG_IN)
        if self.sweep.if_possible:
            return replace(self, sweep=_without_optional(self.sweep)).check()
        more = [*self.sweep.controls, *(name for name in self.sweep.baselines if name not in COMPARED_WITH)]
        if more:
            raise bad_value(
                "search", ", ".join(more), f"no controls, and of baselines {' and '.join(COMPARED_WITH)}",
                "train the others afterwards, for what the search has found: python -m sweeps.lth_grid",
            )  # fmt: skip
        if self.reduction is not None:
            if self.reduction < 2:
                raise bad_value("asha", self.reduction, "a reduction factor of at least 2, such as 3")
            if len(self.objectives) > 1:
                raise bad_value(
                    "asha", " and ".join(self.objectives), "one objective",
                    "successive halving ranks suggestions: give --floor",
                )  # fmt: skip
        search = self if self.floor is None else self._above(self.floor)
        fixed = {
            n: axis.ends[0] for n, axis in search.axes.items() if isinstance(axis, Choice) and len(axis.values) == 1
        }
        axes = {name: axis for name, axis in search.axes.items() if name not in fixed}
        base = {**{n: v for n, v in search.sweep.base.items() if n not in axes}, **fixed}
        if not axes:
            raise UserError(
                "search: found no axis; expected one or more, such as --sparsity 50..97 or --schedule imp omp"
            )
        check_axes(base, axes)
        suggestions = search.suggestions
        if search.sampler == GRID:
            suggestions = min(suggestions, len(all_points(base, axes)))
        return replace(search, sweep=replace(search.sweep, base=base, axes={}), axes=axes, suggestions=suggestions)

    def _above(self, floor: float) -> Search:
        check_sparsity("floor", floor)
        name = "target_sparsity_pct"
        axis = self.axes.get(name, Choice(values=(floor,)))
        if isinstance(axis, Range):
            if axis.high < floor:
                raise bad_value("floor", floor, f"at most the greatest sparsity of the search, {axis.high:g}")
            low = max(floor, axis.low)
            axis = replace(axis, low=low) if low < axis.high else Choice(values=(floor,))
        else:
            values = tuple(value for value in axis.values if value >= floor)
            if not values:
                raise bad_value("floor", floor, f"at most the greatest sparsity of the search, {max(axis.values):g}")
            axis = Choice(values=values)
        return replace(self, axes={**self.axes, name: axis})


def digits_search() -> Search:
    """How far can LeNet-300-100 be pruned on digits before it loses accuracy, and in which way?

    Sparsity from 50 to 97 %, pruned in one shot or by 40 or 60 % per level, rewound to epoch 0 or 1; three seeds;
    objectives: accuracy and sparsity. 24 suggestions, a minute on two cores.
    """
    return Search(
        sweep=replace(
            digits(), name="digits_search", seeds=(0, 1, 2),
            claim="Which way of pruning keeps most accuracy with fewest weights?",
        ),
        axes={
            "target_sparsity_pct": Range(low=50.0, high=97.0),
            "schedule": Choice(values=("imp", "omp")),
            "prune_rate_pct": Choice(values=(40.0, 60.0)),
            "rewind_epoch": Choice(values=(0, 1)),
        },
    )  # fmt: skip


def _without_optional(sweep: Sweep) -> Sweep:
    """The sweep without what its recipe has only where it is possible, and no search has."""
    controls = () if "controls" in sweep.if_possible else sweep.controls
    is_optional = "baselines" in sweep.if_possible
    baselines = tuple(name for name in sweep.baselines if name in COMPARED_WITH or not is_optional)
    return replace(sweep, controls=controls, baselines=baselines, if_possible=())


SEARCHES: dict[str, Callable[[], Search]] = {"digits_search": digits_search}


def find_search(name: str) -> Search:
    """The search of a name or a `package.module:function`; or a recipe, also in a file, as a search without its axes.

    Raises `UserError` for an unknown name.
    """
    if name in RECIPES or is_recipe_file(name):
        sweep = any_recipe(name)
        return Search(sweep=replace(sweep, name=f"{sweep.name}_search", axes={}, selects=every_point))
    return make("search", name, {**SEARCHES, **RECIPES}, Search)
