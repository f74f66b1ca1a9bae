"""Tables of what masks and weights of several trials, or of one at several times, have in common."""

from __future__ import annotations

from analysis.columns import BOOL, FLOAT, INT, TEXT, column, table_schema

PART = "part (0..1)"
_RUN = column("run", TEXT, "name", "folder of the run", "name of the run", nullable=False)
_LAYER = column("layer", TEXT, "name", "record.json: layers.layer", "parameter of the model; null: all layers at once")

OVERLAPS = table_schema("overlaps", "one row a pair of tickets that differ in one thing, and layer or all layers", [
    _RUN,
    column("trial_a", TEXT, "name", "plan.json: name", "a ticket", nullable=False),
    column("trial_b", TEXT, "name", "plan.json: name", "the other, later in the table of trials", nullable=False),
    column("between", TEXT, "name", "computed", "in what they differ: seed, rewind or criterion", nullable=False),
    _LAYER,
    column("n_weights", INT, "weights", "masks.safetensors", "prunable weights"),
    column("n_kept_a", INT, "weights", "masks.safetensors", "weights that the final mask of trial_a keeps"),
    column("n_kept_b", INT, "weights", "masks.safetensors", "weights that the final mask of trial_b keeps"),
    column("n_both", INT, "weights", "masks.safetensors", "weights that both masks keep"),
    column("iou", FLOAT, PART, "analysis.overlap", "intersection over union; null: both masks are empty"),
    column("chance_iou", FLOAT, PART, "analysis.overlap",
           "sum n p q / sum n (p + q - p q) for layers of n weights and densities p, q: its level by chance"),
    column("z", FLOAT, "standard deviations", "analysis.overlap",
           "of n_both from its hypergeometric mean; null for nested masks, and where chance leaves no choice"),
    column("nested", BOOL, "true or false", "analysis.overlap",
           "one whole mask lies within the other, so the overlap is by construction"),
])  # fmt: skip

SIGNS = table_schema("signs", "one row a trial, pair of its weights in time, and layer or all layers", [
    _RUN,
    column("trial", TEXT, "name", "plan.json: name", "name of the trial", nullable=False),
    column("between", TEXT, "name", "computed", "initial-rewind, initial-final or rewind-final", nullable=False),
    _LAYER,
    column("n_kept", INT, "weights", "masks.safetensors", "weights that the final mask keeps: those that are compared"),
    column("n_agree", INT, "weights", "weights.safetensors", "both positive or both negative"),
    column("n_disagree", INT, "weights", "weights.safetensors", "one positive, one negative"),
    column("n_zero", INT, "weights", "weights.safetensors", "either is 0, so has no sign"),
    column("agreement", FLOAT, PART, "analysis.overlap",
           "n_agree / (n_agree + n_disagree); 0.5 by chance; null: no weight has signs"),
])  # fmt: skip

BARRIERS = table_schema("barriers", "one row a ticket, pair of data orders, part of the data and kind of statistics", [
    _RUN,
    column("trial", TEXT, "name", "plan.json: name", "ticket that was trained on in two data orders", nullable=False),
    column("order_seed_a", INT, "number", "computed", "seed of the one data order"),
    column("order_seed_b", INT, "number", "computed", "seed of the other"),
    column("part", TEXT, "name", "computed", "part of the data: train or test", nullable=False),
    column("batch_norm", TEXT, "name", "computed",
           "running statistics on the path: raw (interpolated too) or recomputed", nullable=False),
    column("n_points", INT, "points", "computed", "networks on the path, ends included"),
    column("error_a_pct", FLOAT, "per cent (0..100)", "computed", "error of the one end"),
    column("error_b_pct", FLOAT, "per cent (0..100)", "computed", "error of the other end"),
    column("error_max_pct", FLOAT, "per cent (0..100)", "computed", "largest error on the path"),
    column("at_max", FLOAT, PART, "computed", "where on the path that is: 0 is a, 1 is b"),
    column("barrier_pp", FLOAT, "percentage points", "computed",
           "error_max_pct minus the mean of error_a_pct and error_b_pct (arXiv 1912.05671, section 2)"),
])  # fmt: skip
