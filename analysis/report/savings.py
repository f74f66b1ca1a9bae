"""What a run cost, and what sharing saved: epochs, seconds, FLOPs. Pure functions of its tables."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.tables.parquet import Frames


@dataclass(frozen=True, kw_only=True)
class Savings:
    """Of the trials with a record. alone: as if each had been trained by itself, its whole chain; own: what they
    trained. flops_*: theoretical multiply-adds of training all chains; None where no trial has them."""

    n_trials: int
    epochs_alone: int
    epochs_distinct: int
    epochs_own: int
    seconds_alone: float
    seconds_own: float
    flops_dense: float | None
    flops_sparse: float | None

    @property
    def epochs_saved_pct(self) -> float:
        """Per cent of the epochs asked for that were not trained; 0 where none were asked for."""
        return 100 * (1 - self.epochs_own / self.epochs_alone) if self.epochs_alone else 0.0


def savings(frames: Frames) -> Savings:
    """The sums. Distinct epochs are counted by who trained them, level and epoch."""
    trials = frames.trials[frames.trials["epochs_total"].notna()]
    epochs = frames.epochs[["trained_by", "level", "epoch"]].drop_duplicates()
    known = trials["flops_dense"].notna()
    return Savings(
        n_trials=len(trials),
        epochs_alone=int(trials["epochs_total"].sum()),
        epochs_distinct=len(epochs),
        epochs_own=int(trials["epochs_trained"].sum()),
        seconds_alone=float(trials["seconds_total"].sum()),
        seconds_own=float(trials["train_seconds"].sum()),
        flops_dense=float(trials.loc[known, "flops_dense"].sum()) if known.any() else None,
        flops_sparse=float(trials.loc[known, "flops_sparse"].sum()) if known.any() else None,
    )
