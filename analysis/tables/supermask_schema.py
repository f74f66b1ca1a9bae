"""The schema of supermasks.parquet: untrained networks under masks, written by `python -m analysis supermasks`."""

from __future__ import annotations

from analysis.tables.columns import FLOAT, INT, TEXT, column, table_schema

_MADE, _PART, _FRACTION = "analysis.supermasks.measuring", "per cent (0..100)", "fraction (0..1)"

SUPERMASKS = table_schema("supermasks", "one row for each mask of an untrained network, and treatment of its weights", [
    column("run", TEXT, "name", "folder of the run", "name of the run", nullable=False),
    column("trial", TEXT, "name", "plan.json: name", "trial that the mask is from: dense for one_shot, the ticket for "
           "rounds", nullable=False),
    column("dataset", TEXT, "name", "spec.dataset", "data set", nullable=False),
    column("model", TEXT, "name", "spec.model", "network", nullable=False),
    column("seed", INT, "number", "spec.seed", "the replicate", nullable=False),
    column("found", TEXT, "name", _MADE, "one_shot: from the dense network's final and initial weights; rounds: the "
           "final mask of a ticket, which was trained between the rounds", nullable=False),
    column("criterion", TEXT, "name", _MADE, "score that decides which weights are kept; random: a random mask",
           nullable=False),
    column("round", INT, "number", _MADE, "rounds of pruning: for one_shot all at once, for rounds levels of the "
           "ticket", nullable=False),
    column("weights", TEXT, "name", _MADE, "initial: as they were; signed_constants: their sign times the standard "
           "deviation of the layer's initial weights", nullable=False),
    column("n_weights", INT, "weights", _MADE, "prunable weights", nullable=False),
    column("n_kept", INT, "weights", _MADE, "weights that the mask keeps", nullable=False),
    column("weights_left_pct", FLOAT, _PART, "computed", "100 n_kept / n_weights", nullable=False),
    column("valid_accuracy", FLOAT, _FRACTION, _MADE, "of the untrained network under the mask", nullable=False),
    column("test_accuracy", FLOAT, _FRACTION, _MADE, "the same on the test split", nullable=False),
    column("majority_class_accuracy", FLOAT, _FRACTION, "computed", "test accuracy of always answering the commonest "
           "class; null: not known"),
    column("n_valid", INT, "pictures", "spec.dataset", "images of the validation split", nullable=False),
    column("n_test", INT, "pictures", "spec.dataset", "images of the test split", nullable=False),
    column("device", TEXT, "text", _MADE, "device on which it was measured", nullable=False),
])  # fmt: skip
