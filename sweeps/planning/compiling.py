"""Whether `--compile` is used: compiling a network takes tens of seconds, which only long trials make up for.

It is decided for all trials of a plan at once, by the longest one, so that those that are compared are computed alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from lth_trainable.spec.trial_spec import DataKey
from lth_trainable.training.compiler import PAYS_FROM
from sweeps.planning.plan import Facts, Plan


def why_not_compiled(plan: Plan, facts: Mapping[DataKey, Facts]) -> str | None:
    """Why networks of this plan are not compiled although that was asked for; None if they are."""
    longest = max(
        (
            (trial.end.above + trial.end.epochs) * -(-facts[trial.spec.data_key].n_train // trial.spec.batch_size)
            for trial in plan.trials
        ),
        default=0,
    )
    if longest >= PAYS_FROM:
        return None
    return (
        f"--compile is not used: the longest trial has {longest:,} updates, and compiling takes about as "
        f"long as it saves in {PAYS_FROM:,}"
    )
