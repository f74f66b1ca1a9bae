"""Tables of what masks and weights of several trials, or of one at several times, have in common."""

from __future__ import annotations

import pyarrow as pa

from analysis.tables.columns import BOOL, FLOAT, INT, TEXT, column, table_schema

OVERLAP, COPIES = "analysis.stats.overlap", "analysis.barriers.copies"
PART, PER_CENT = "part (0..1)", "per cent (0..100)"
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
    column("iou", FLOAT, PART, OVERLAP, "intersection over union; null: both masks are empty"),
    column("chance_iou", FLOAT, PART, OVERLAP,
           "sum n p q / sum n (p + q - p q) for layers of n weights and densities p, q: its level by chance"),
    column("z", FLOAT, "standard deviations", OVERLAP,
           "of n_both from its hypergeometric mean; null for nested masks, and where chance leaves no choice"),
    column("nested", BOOL, "true or false", OVERLAP,
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
    column("agreement", FLOAT, PART, OVERLAP,
           "n_agree / (n_agree + n_disagree); 0.5 by chance; null: no weight has signs"),
])  # fmt: skip

_FLOATS = pa.list_(pa.field("element", FLOAT))  # named as it comes back from a file

BARRIERS = table_schema("barriers", "one row a network, pair of order seeds, part of the data and kind of statistics", [
    _RUN,
    column("trial", TEXT, "name", "plan.json: name", "ticket or dense trial that copies were trained of",
           nullable=False),
    column("group", TEXT, "name", "computed from trial", "the trial's name without its seeds", nullable=False),
    column("ladder", TEXT, "name", "computed from trial", "the group's name without its target sparsity; null: dense"),
    column("baseline_group", TEXT, "name", "computed", "group of the dense trial of its seed; null: none"),
    column("key", TEXT, "SHA-256 (hex)", "record.json: key", "identity of the trial"),
    column("seed", INT, "number", "spec.seed", "the replicate"),
    column("sparsity_pct", FLOAT, PER_CENT, "record.json: result.sparsity_pct", "measured; 0: dense"),
    column("target_sparsity_pct", FLOAT, PER_CENT, "spec.target_sparsity_pct", "sparsity asked for; null: dense"),
    column("rewound_to", TEXT, "epoch, or iteration and it", "spec.rewind_epoch, spec.rewind_step",
           "where the copies set out, such as 1 or 500it", nullable=False),
    column("rewound_to_step", INT, "updates", "computed", "updates before that point"),
    column("epochs", INT, "epochs", "computed", "epochs that each copy was trained; a part of one counts"),
    column("order_seed_a", INT, "number", COPIES, "seed of the one copy's SGD noise: order of the data, "
           "augmentation, dropout", nullable=False),
    column("order_seed_b", INT, "number", COPIES, "seed of the other's", nullable=False),
    column("part", TEXT, "name", COPIES, "part of the data: train or test", nullable=False),
    column("batch_norm", TEXT, "name", COPIES, "running statistics on the line: raw (interpolated as all "
           "else) or recomputed (on training data); equal without BatchNorm", nullable=False),
    column("n_points", INT, "points", COPIES, "networks on the line, ends included", nullable=False),
    column("status", TEXT, "name", COPIES, "done, or diverged: a copy's loss was not finite",
           nullable=False),
    column("error_a_pct", FLOAT, PER_CENT, COPIES, "error of the one copy"),
    column("error_b_pct", FLOAT, PER_CENT, COPIES, "error of the other"),
    column("error_max_pct", FLOAT, PER_CENT, "computed", "largest error on the line"),
    column("at_max", FLOAT, PART, "computed", "where that is: 0 at a, 1 at b; the first where several"),
    column("barrier_pp", FLOAT, "percentage points", "computed",
           "error_max_pct minus the mean of error_a_pct and error_b_pct (arXiv 1912.05671, section 2)"),
    column("stable", BOOL, "true or false", "computed", "barrier_pp is below 2"),
    column("alphas", _FLOATS, PART, COPIES, "places on the line: (1 - alpha) a + alpha b"),
    column("errors_pct", _FLOATS, PER_CENT, COPIES, "error at each of them"),
    column("device", TEXT, "text", COPIES, "device that trained the copies"),
])  # fmt: skip
