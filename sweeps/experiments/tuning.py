"""The learning rate of each arm of a comparison: chosen on validation, on seeds that are not those of the verdict.

An *arm* is the dense networks, the tickets, or the controls of one name. Each gets the candidate with the highest mean
validation accuracy over its trials. So a difference between arms is not one of learning rates that suit only one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lth_trainable.errors import UserError, bad_value
from lth_trainable.pruning.controls import CONTROLS
from lth_trainable.spec.trial_spec import TrialSpec

DENSE, TICKET = "dense", "ticket"
FIRST_SEED = 1_000_000  # of tuning: beyond the seeds of verdicts, however many are added to these later
SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What was found for an arm. accuracies: mean validation accuracy (fraction) by candidate. rate: the chosen one."""

    rate: float
    accuracies: Mapping[float, float]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The learning rates of a sweep that were tuned. run: where the trials of tuning are. seeds: of these trials."""

    run: str
    seeds: tuple[int, ...]
    arms: Mapping[str, Arm]

    @property
    def rates(self) -> dict[str, float]:
        return {name: arm.rate for name, arm in self.arms.items()}

    def as_json(self) -> dict[str, Any]:
        """For plan.json."""
        arms = {
            name: {"lr": arm.rate, "valid_accuracy": {f"{lr:g}": value for lr, value in arm.accuracies.items()}}
            for name, arm in self.arms.items()
        }
        return {"run": self.run, "seeds": list(self.seeds), "arms": arms, "sentence": self.sentence}

    def applied(self, spec: TrialSpec) -> dict[str, Any]:
        """The fields of a trial of the sweep that its arm's learning rate changes. Tickets have theirs already."""
        if spec.is_dense:
            return {"lr": self.arms[DENSE].rate}
        return {"control_lr": self.arms[spec.control].rate} if spec.control in self.arms else {}

    @property
    def sentence(self) -> str:
        """What was tuned, in one sentence for terminal, plan and report."""
        rates = ", ".join(f"{name.replace('_', ' ')} {arm.rate:g}" for name, arm in self.arms.items())
        tried = " ".join(f"{lr:g}" for lr in self.arms[DENSE].accuracies)
        first, last = self.seeds[0], self.seeds[-1]
        return (
            f"learning rates chosen on validation accuracy, of {tried}: {rates}; on seeds {first} to {last} (run "
            f"{self.run}), which are not those of the verdict"
        )


def check_arms(names: Sequence[str], candidates: Sequence[float], controls: Sequence[str], n_seeds: int) -> None:
    """Raise `UserError` unless these arms can be tuned. controls: those of the sweep."""
    valid = (DENSE, TICKET, *CONTROLS)
    for name in names:
        if name not in valid:
            raise bad_value("tune-lr", name, f"{DENSE}, {TICKET} or the name of a control ({', '.join(CONTROLS)})")
        if name in CONTROLS and name not in controls and "all" not in controls:
            raise bad_value("tune-lr", name, f"a control of this sweep: add --controls {name}")
    if not {DENSE, TICKET} <= set(names):
        raise bad_value(
            "tune-lr", list(names), f"{DENSE} and {TICKET}, and any controls", "else only one side is tuned"
        )
    if len(set(candidates)) < 2:
        raise UserError("tune-lr: expected the candidates on --lr, such as --lr 3e-4 1.2e-3 5e-3; found fewer than two")
    if n_seeds < 1:
        raise bad_value("tune-seeds", n_seeds, "a whole number of at least 1")


def rate_of(row: Mapping[str, Any]) -> float:
    """The learning rate that a trial tries: of a control that of its own level."""
    own = row.get("control_lr")
    return float(row["lr"] if own is None else own)


def best_rates(rows: Iterable[Mapping[str, Any]]) -> dict[str, Arm]:
    """The arms of finished or diverged trials, rows of trials.parquet. A diverged trial counts at chance accuracy.

    An arm has one rate for all its trials, over all sparsities and rewind points: so a ladder stays a ladder. Of equal
    candidates the smallest is chosen.
    """
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        column = "valid_accuracy" if row["status"] == "done" else "chance_accuracy"
        name = TICKET if row["control"] == "none" else row["control"]
        found[name][rate_of(row)].append(row[column] or 0.0)
    means = {
        name: {rate: sum(values) / len(values) for rate, values in sorted(by_rate.items())}
        for name, by_rate in found.items()
    }
    return {
        name: Arm(rate=max(accuracies, key=accuracies.__getitem__), accuracies=accuracies)
        for name, accuracies in means.items()
    }


def check_same_rates(path: str, planned: Mapping[str, Any] | None, tuning: Tuning | None) -> None:
    """Raise `UserError` if the run at `path` was planned with other rates: an arm has one rate in a run.

    planned: "tuning" of its plan; None if it has no tuned rates.
    """
    before = {arm: found["lr"] for arm, found in planned["arms"].items()} if planned else {}
    now = tuning.rates if tuning is not None else {}
    if before != now:
        raise UserError(
            f"{path}: found {_in_words(now)}; expected {_in_words(before)}, as its trials have; choose another --name"
        )


def _in_words(rates: Mapping[str, float]) -> str:
    if not rates:
        return "no tuned learning rates"
    return "the tuned learning rates " + ", ".join(f"{arm} {rate:g}" for arm, rate in rates.items())
