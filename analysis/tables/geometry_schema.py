"""Schemas of the tables that compare masks or weights: overlaps, signs, barriers and connections."""

from __future__ import annotations

import pyarrow as pa

from analysis.tables.columns import BOOL, FLOAT, INT, TEXT, column, table_schema

OVERLAP, COPIES, PATHS = "analysis.stats.overlap", "analysis.barriers.copies", "analysis.barriers.paths"
PART, PER_CENT = "part (0..1)", "per cent (0..100)"
_RUN = column("run", TEXT, "name", "folder of the run", "name of the run", nullable=False)
_LAYER = column("layer", TEXT, "name", "record.json: layers.layer", "parameter of the model; null: all layers at once")

OVERLAPS = table_schema("overlaps", "one row for each pair of tickets that differ in one thing, and layer", [
    _RUN,
    column("trial_a", TEXT, "name", "plan.json: name", "a ticket", nullable=False),
    column("trial_b", TEXT, "name", "plan.json: name", "the other, later in the table of trials", nullable=False),
    column("between", TEXT, "name", "computed", "what they differ in: seed, rewind or criterion", nullable=False),
    _LAYER,
    column("n_weights", INT, "weights", "masks.safetensors", "prunable weights"),
    column("n_kept_a", INT, "weights", "masks.safetensors", "weights that the final mask of trial_a keeps"),
    column("n_kept_b", INT, "weights", "masks.safetensors", "weights that the final mask of trial_b keeps"),
    column("n_both", INT, "weights", "masks.safetensors", "weights that both masks keep"),
    column("iou", FLOAT, PART, OVERLAP, "intersection over union; null: both masks are empty"),
    column("chance_iou", FLOAT, PART, OVERLAP,
           "sum n p q / sum n (p + q - p q) for layers of n weights and densities p, q: the iou expected by chance"),
    column("z", FLOAT, "standard deviations", OVERLAP,
           "distance of n_both from its hypergeometric mean; null for nested masks, and if chance leaves no choice"),
    column("nested", BOOL, "true or false", OVERLAP,
           "one mask lies completely within the other, so the overlap is by construction"),
])  # fmt: skip

SIGNS = table_schema("signs", "one row for each trial, pair of points in its training, and layer or all layers", [
    _RUN,
    column("trial", TEXT, "name", "plan.json: name", "name of the trial", nullable=False),
    column("between", TEXT, "name", "computed", "initial-rewind, initial-final or rewind-final", nullable=False),
    _LAYER,
    column("n_kept", INT, "weights", "masks.safetensors", "weights that the final mask keeps, which are compared"),
    column("n_agree", INT, "weights", "weights.safetensors", "both positive or both negative"),
    column("n_disagree", INT, "weights", "weights.safetensors", "one positive, one negative"),
    column("n_zero", INT, "weights", "weights.safetensors", "one of them is 0, so has no sign"),
    column("agreement", FLOAT, PART, OVERLAP,
           "n_agree / (n_agree + n_disagree); 0.5 by chance; null: no weight has a sign"),
])  # fmt: skip

_FLOATS = pa.list_(pa.field("element", FLOAT))  # named as Parquet names it

BARRIERS = table_schema("barriers", "one row for each network, pair of order seeds, split and kind of statistics", [
    _RUN,
    column("trial", TEXT, "name", "plan.json: name", "ticket or dense trial whose copies were trained",
           nullable=False),
    column("group", TEXT, "name", "computed from trial", "the trial's name without its seeds", nullable=False),
    column("ladder", TEXT, "name", "computed from trial", "the group's name without its target sparsity; null: dense"),
    column("baseline_group", TEXT, "name", "computed", "group of the dense trial of its seed; null: none"),
    column("key", TEXT, "SHA-256 (hex)", "record.json: key", "identity of the trial"),
    column("seed", INT, "number", "spec.seed", "the replicate"),
    column("sparsity_pct", FLOAT, PER_CENT, "record.json: result.sparsity_pct", "measured sparsity; 0: dense"),
    column("target_sparsity_pct", FLOAT, PER_CENT, "spec.target_sparsity_pct", "requested sparsity; null: dense"),
    column("rewound_to", TEXT, "epoch, or iteration and it", "spec.rewind_epoch, spec.rewind_step",
           "where the copies start, such as 1 or 500it", nullable=False),
    column("rewound_to_step", INT, "updates", "computed", "updates before that point"),
    column("epochs", INT, "epochs", "computed", "epochs that each copy was trained; a fraction of one counts as one"),
    column("order_seed_a", INT, "number", COPIES, "seed of the SGD noise of one copy: order of the data, "
           "augmentation, dropout", nullable=False),
    column("order_seed_b", INT, "number", COPIES, "the same of the other copy", nullable=False),
    column("part", TEXT, "name", COPIES, "split of the data: train or test", nullable=False),
    column("batch_norm", TEXT, "name", COPIES, "running statistics on the line: raw (interpolated like the "
           "weights) or recomputed (on training data); equal without BatchNorm", nullable=False),
    column("n_points", INT, "points", COPIES, "networks on the line, ends included", nullable=False),
    column("status", TEXT, "name", COPIES, "done, or diverged: the loss of a copy was not finite",
           nullable=False),
    column("error_a_pct", FLOAT, PER_CENT, COPIES, "error of one copy"),
    column("error_b_pct", FLOAT, PER_CENT, COPIES, "error of the other copy"),
    column("error_max_pct", FLOAT, PER_CENT, "computed", "largest error on the line"),
    column("at_max", FLOAT, PART, "computed", "where that is: 0 at a, 1 at b; the first if there are several"),
    column("barrier_pp", FLOAT, "percentage points", "computed",
           "error_max_pct minus the mean of error_a_pct and error_b_pct (arXiv 1912.05671, section 2)"),
    column("stable", BOOL, "true or false", "computed", "barrier_pp is below 2"),
    column("alphas", _FLOATS, PART, COPIES, "points on the line: (1 - alpha) a + alpha b"),
    column("errors_pct", _FLOATS, PER_CENT, COPIES, "error at each of them"),
    column("device", TEXT, "text", COPIES, "device that trained the copies"),
])  # fmt: skip

CONNECTIONS = table_schema("connections", "one row for each pair of trained networks, split and kind of statistics", [
    _RUN,
    column("trial", TEXT, "name", "plan.json: name", "the ticket whose levels these are, or the ticket at the end b",
           nullable=False),
    column("group", TEXT, "name", "computed from trial", "the trial's name without its seeds", nullable=False),
    column("ladder", TEXT, "name", "computed from trial", "the group's name without its target sparsity",
           nullable=False),
    column("key", TEXT, "SHA-256 (hex)", "record.json: key", "identity of the trial"),
    column("seed", INT, "number", "spec.seed", "the replicate", nullable=False),
    column("between", TEXT, "name", PATHS, "levels: the ends of consecutive levels of one trial; dense: the dense "
           "network and the ticket", nullable=False),
    column("level_a", INT, "number", PATHS, "prune events of network a; 0 is dense", nullable=False),
    column("level_b", INT, "number", PATHS, "the same of network b", nullable=False),
    column("sparsity_a_pct", FLOAT, PER_CENT, PATHS, "sparsity of network a", nullable=False),
    column("sparsity_b_pct", FLOAT, PER_CENT, PATHS, "the same of network b", nullable=False),
    column("state_a", TEXT, "path", PATHS, "folder of the state of network a in the storage", nullable=False),
    column("state_b", TEXT, "path", PATHS, "the same of network b", nullable=False),
    column("part", TEXT, "name", PATHS, "split of the data: train or test", nullable=False),
    column("batch_norm", TEXT, "name", PATHS, "running statistics on the line: raw (interpolated like the "
           "weights) or recomputed (on training data); equal without BatchNorm", nullable=False),
    column("n_points", INT, "points", PATHS, "networks on the line, ends included", nullable=False),
    column("error_a_pct", FLOAT, PER_CENT, PATHS, "error of network a"),
    column("error_b_pct", FLOAT, PER_CENT, PATHS, "error of network b"),
    column("error_max_pct", FLOAT, PER_CENT, "computed", "largest error on the line"),
    column("at_max", FLOAT, PART, "computed", "where the barrier is: 0 at a, 1 at b; the first if there are several"),
    column("barrier_pp", FLOAT, "percentage points", "computed", "the largest difference between the error at a point "
           "and (1 - alpha) error_a_pct + alpha error_b_pct (arXiv 2110.06296)"),
    column("connected", BOOL, "true or false", "computed", "barrier_pp is below 2"),
    column("margin_pp", FLOAT, "percentage points", "plan.json: margin_pp", "margin of the run's verdict"),
    column("alphas", _FLOATS, PART, PATHS, "points on the line: (1 - alpha) a + alpha b"),
    column("errors_pct", _FLOATS, PER_CENT, PATHS, "error at each of them"),
    column("device", TEXT, "text", PATHS, "device on which the line was measured", nullable=False),
])  # fmt: skip
