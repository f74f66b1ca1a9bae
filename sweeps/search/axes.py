"""The axes of a search: which values a field may take, as the user writes them and as Optuna draws them.

    --sparsity 50..97          any number from 50 to 97
    --lr 3e-4..3e-3:log        any number of this range, drawn evenly on a log scale
    --prune-rate 20..60:20     20, 40 or 60
    --schedule imp omp         one of these
    --epochs 20                always this value: not an axis

An axis is drawn only in trials where its field has an effect: the prune rate has none in a one-shot schedule.
"""

from __future__ import annotations

import itertools
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lth_trainable.errors import UserError, bad_value, is_finite_number, too_large
from lth_trainable.scalars import plain_fields
from lth_trainable.spec.draft import MOST_SEED
from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.experiments.split_seeds import FIELD as SPLIT
from sweeps.experiments.split_seeds import OWN, check_splits, of_seed

if TYPE_CHECKING:  # Optuna takes a second to import
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

# the fields that decide which others have an effect
DECIDING = ("schedule", "retrain", "optimizer", "lr_policy", "context", "reset_end")
DIGITS = 4  # significant digits of a drawn number: more would only make trial names unreadable
_RANGE = re.compile(r"(?P<low>[^:]+?)\.\.(?P<high>[^:]+?)(?::(?P<how>.+))?")
_EXPECTED = "values, or LOW..HIGH, LOW..HIGH:log or LOW..HIGH:STEP"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several values, without an order."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        plain_fields(self, "values")

    def draw(self, trial: BaseTrial, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)

    @property
    def distribution(self) -> BaseDistribution:
        """As which Optuna stores the axis."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.values

    def values_of(self, name: str) -> tuple[Any, ...]:
        """All values. name: of the field, for messages."""
        return self.values

    def __str__(self) -> str:
        return ", ".join(map(_text, self.values))


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from low to high, both included; integers if both ends (and the step) are of type int.

    log: draw evenly on a log scale. step: draw only low, low + step, ...
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        plain_fields(self, "low", "high", "step")

    def draw(self, trial: BaseTrial, name: str) -> Any:
        if self._is_whole:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        drawn = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        return min(self.high, max(self.low, float(f"{drawn:.{DIGITS}g}")))

    @property
    def distribution(self) -> BaseDistribution:
        """As which Optuna stores the axis."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self._is_whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.low, self.high

    def values_of(self, name: str) -> tuple[Any, ...]:
        """All values, if there is a step between them. Raises `UserError` if not. name: of the field, for messages."""
        if self._is_whole:
            return tuple(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        if self.step is None:
            raise bad_value(name, str(self), "values, or LOW..HIGH:STEP, with --sampler grid")
        steps = int((self.high - self.low) / self.step + 1e-8)
        return tuple(self.low + self.step * number for number in range(steps + 1))

    @property
    def _is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __str__(self) -> str:
        how = ":log" if self.log else f":{self.step:g}" if self.step else ""
        return f"{self.low:g}..{self.high:g}{how}"


Axis = Choice | Range


def parse_axis(field: str, flag: str, texts: Sequence[str]) -> Axis:
    """The axis of a spec field, from the words after its flag. Raises `UserError` for words that describe no axis."""
    hint = typing.get_type_hints(TrialSpec)[field]
    kind = next(t for t in (*typing.get_args(hint), hint) if t is not type(None))
    ranges = [text for text in texts if ".." in text]
    if not ranges:
        values = tuple(dict.fromkeys(_value(field, flag, kind, text) for text in texts))
        if field == SPLIT:
            check_splits(flag, values)
        return Choice(values=values)
    if len(texts) > 1:
        raise bad_value(flag, " ".join(texts), "either values or one range")
    return _range(field, flag, kind, texts[0])


def draw_point(trial: BaseTrial, base: Mapping[str, Any], axes: Mapping[str, Axis]) -> dict[str, Any]:
    """Draw a value for every axis that has an effect."""
    point: dict[str, Any] = {}
    for name in draw_order(axes):
        if acts(name, axes[name], {**base, **point}):
            point[name] = axes[name].draw(trial, name)
    return point


def all_points(base: Mapping[str, Any], axes: Mapping[str, Axis]) -> list[dict[str, Any]]:
    """All points of a search whose axes have finitely many values, without those that are not valid trials.

    Values are as Optuna stores them. Raises `UserError` for an axis that has infinitely many.
    """
    points: list[dict[str, Any]] = [{}]
    for name in draw_order(axes):
        values = axes[name].values_of(name)
        points = [
            {**point, **chosen}
            for point in points
            for chosen in ([{name: v} for v in values] if acts(name, axes[name], {**base, **point}) else [{}])
        ]
    return [point for point in points if _refusal({**base, **point}) is None]


def draw_order(axes: Mapping[str, Axis]) -> list[str]:
    """The names of the axes as they are drawn: fields that decide about others first."""
    return sorted(axes, key=lambda name: DECIDING.index(name) if name in DECIDING else len(DECIDING))


def acts(name: str, axis: Axis, point: Mapping[str, Any]) -> bool:
    """Whether the field has an effect in a trial with these values. True if they do not make a valid trial."""
    names = ("rewind_epoch", "rewind_step") if name == "rewind_epoch" else (name,)
    try:
        spec = _any_of({**point, name: axis.ends[0]})
    except UserError:
        return True
    return any(getattr(spec, n) is not None for n in names)


def check_axes(base: Mapping[str, Any], axes: Mapping[str, Axis]) -> None:
    """Raise `UserError` for a value that is valid in no trial of the search, or an axis that has an effect in none."""
    deciding = {name: axis.ends for name, axis in axes.items() if name in DECIDING}
    points = [{**base, **dict(zip(deciding, values, strict=True))} for values in itertools.product(*deciding.values())]
    for name, axis in axes.items():
        for value in axis.ends:
            refusals = [_refusal({**point, name: value}) for point in points]
            if None not in refusals:
                raise next(refusal for refusal in refusals if refusal is not None)
        if not any(acts(name, axis, point) for point in points):
            raise bad_value(name, str(axis), "an axis that has an effect in some trial of this search")


def _refusal(point: Mapping[str, Any]) -> UserError | None:
    try:
        _any_of(point)
    except UserError as error:
        return error
    return None


def _any_of(point: Mapping[str, Any]) -> TrialSpec:
    """The trial of some seed."""
    return TrialSpec(**of_seed(point, point.get("seed", 0)))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _range(field: str, flag: str, kind: type, text: str) -> Range:
    found = _RANGE.fullmatch(text)
    if found is None or kind not in (int, float):
        expected = _EXPECTED if kind in (int, float) else "names: this field has no range"
        raise bad_value(flag, text, expected)
    low, high = (_value(field, flag, kind, found[end]) for end in ("low", "high"))
    how = found["how"]
    if isinstance(low, str) or isinstance(high, str):
        raise bad_value(flag, text, "a range of epochs", "iterations such as 500it are values, not the ends of a range")
    if not low < high:
        raise bad_value(flag, text, "LOW less than HIGH")
    if how == "log":
        if low <= 0:
            raise bad_value(flag, text, "a positive LOW with :log")
        return Range(low=low, high=high, log=True)
    step = _value(field, flag, kind, how) if how else None
    if step is not None and not 0 < step <= high - low:
        raise bad_value(flag, text, "a positive STEP that is not wider than the range")
    return Range(low=low, high=high, step=step)


def _value(field: str, flag: str, kind: type, text: str) -> Any:
    if kind is bool:
        if text not in ("True", "False"):
            raise bad_value(flag, text, "True or False")
        return text == "True"
    if kind is str or (field == "rewind_epoch" and text.endswith("it")) or (field == SPLIT and text == OWN):
        return text
    try:
        value = kind(text)
    except ValueError:
        raise bad_value(flag, text, _EXPECTED) from None
    if not is_finite_number(value):
        raise bad_value(flag, text, _EXPECTED)
    if kind is int and value > MOST_SEED:
        raise too_large(flag, value, MOST_SEED)
    return value
