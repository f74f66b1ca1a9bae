"""Learning rates tuned arm by arm: which is best, what each trial of the sweep gets, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from analysis.tables.run_plan import Rule
from analysis.verdicts.claims import verdicts
from lth_trainable.errors import UserError
from sweeps.cli.options import parse
from sweeps.cli.tune_lr import check_tuning, with_rates
from sweeps.experiments.expand import expand
from sweeps.experiments.recipes import Sweep, find_recipe
from sweeps.experiments.tuning import FIRST_SEED, Arm, Tuning, best_rates, check_same_rates
from tests.support.records import dense, ladder, paired, trial_rows, with_fields

LRS = ("3e-4", "1.2e-3", "5e-3")


def row(lr: float, accuracy: float | None, control: str = "none", **more: Any) -> dict[str, Any]:
    status = "done" if accuracy is not None else "diverged"
    return {"lr": lr, "valid_accuracy": accuracy, "chance_accuracy": 0.1, "control": control, "status": status, **more}


def tuning(**rates: float) -> Tuning:
    arms = {name: Arm(rate=rate, accuracies={3e-4: 0.8, rate: 0.9}) for name, rate in rates.items()}
    return Tuning(run="digits-tune-lr", seeds=(FIRST_SEED, FIRST_SEED + 1), arms=arms)


def sweep_at(**rates: float) -> Sweep:
    axes = {"target_sparsity_pct": (64.0, 87.04), "rewind_epoch": (0,), "lr": (3e-4, 1.2e-3, 5e-3)}
    controls = tuple(name for name in rates if name not in ("dense", "ticket"))
    sweep = replace(find_recipe("digits"), axes=axes, seeds=tuple(range(5)), controls=controls, base={})
    return with_rates(sweep, tuning(**rates))


def test_each_arm_gets_the_rate_with_the_best_mean_validation_accuracy() -> None:
    """A diverged trial counts at chance; of equal rates the smallest is taken; a control's rate is its own level's."""
    rows = [
        row(0.001, 0.90, "dense"), row(0.01, 0.95, "dense"), row(0.001, 0.92, "dense"), row(0.01, None, "dense"),
        row(0.001, 0.8), row(0.01, 0.8), row(0.1, 0.7),
        row(0.001, 0.5, "reinit", control_lr=None), row(0.001, 0.6, "reinit", control_lr=0.1),
    ]  # fmt: skip
    assert {name: arm.rate for name, arm in best_rates(rows).items()} == {
        "dense": 0.001,
        "ticket": 0.001,
        "reinit": 0.1,
    }
    assert best_rates(rows)["dense"].accuracies == pytest.approx({0.001: 0.91, 0.01: (0.95 + 0.1) / 2})


def test_every_trial_of_the_sweep_has_the_rate_of_its_arm() -> None:
    expanded = expand(sweep_at(dense=5e-3, ticket=3e-4, reinit=1.2e-3))
    found = {(spec.control, spec.lr, spec.control_lr) for spec in expanded.trials}
    assert found == {("dense", 5e-3, None), ("none", 3e-4, None), ("reinit", 3e-4, 1.2e-3)}, "a mask stays its ticket's"
    assert not {spec.seed for spec in expanded.trials} & {FIRST_SEED, FIRST_SEED + 1}
    [note] = [note for note in expanded.notes if "validation" in note]
    assert "dense 0.005, ticket 0.0003, reinit 0.0012" in note and "not those of the verdict" in note


def test_a_ticket_is_compared_with_a_dense_network_of_another_rate_only_if_rates_were_tuned() -> None:
    specs = [*dense(lr=0.001), *ladder(64, lr=0.001)]
    rows = trial_rows(specs, paired(97.0, {64.0: [0.2, 0.1, -0.1, 0.3, 0.0]}))
    rows = [with_fields(row, lr=0.01) if row["control"] == "dense" else row for row in rows]
    tuned, untuned = (
        [row["n_pairs"] for row in verdicts(rows, Rule(margin_pp=1.0, tuned=tuned)) if row["claim"] == "matches"]
        for tuned in (True, False)
    )
    assert (tuned, untuned) == ([5], [0])


def test_a_run_has_one_rate_for_each_arm() -> None:
    one, other = tuning(dense=5e-3, ticket=3e-4), tuning(dense=5e-3, ticket=1.2e-3)
    check_same_rates("runs/x", one.as_json(), one)
    check_same_rates("runs/x", None, None)
    for planned, now in ((one.as_json(), other), (None, one), (one.as_json(), None)):
        with pytest.raises(UserError, match="choose another --name"):
            check_same_rates("runs/x", planned, now)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tune-lr", "dense", "ticket"], "expected the candidates on --lr"),
        (["--lr", *LRS, "--tune-lr", "ticket"], "else only one side is tuned"),
        (["--lr", *LRS, "--tune-lr", "dense", "ticket", "omp"], "or the name of a control"),
        (["--lr", *LRS, "--tune-lr", "dense", "ticket", "reinit"], "add --controls reinit"),
        (["--lr", *LRS, "--tune-lr", "dense", "ticket", "--tune-seeds", "0"], "at least 1"),
        (["--lr", *LRS, "--tune-lr", "dense", "ticket", "--seed", str(FIRST_SEED)], "expected seeds below"),
    ],
)
def test_what_cannot_be_tuned_is_refused(words: Sequence[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_tuning(*parse(["digits", "--controls", "none", *words]))


def test_arms_are_given_with_commas_too() -> None:
    options, sweep = parse(["digits", "--lr", "3e-4,5e-3", "--controls", "reinit", "--tune-lr", "dense,ticket,reinit"])
    check_tuning(options, sweep)
    assert options.tune_lr == ("dense", "ticket", "reinit") and options.tune_seeds == 3
